"""Machines that share a folder by NFS: a server and two clients, emulated by QEMU.

    apt-get install --no-install-recommends qemu-system-x86 busybox-static cpio kmod \\
        linux-image-amd64 nfs-kernel-server nfs-common

They see this machine's files, read-only, and leave no trace on it: the shared folder is in the
server's memory. An emulated processor has no AVX-512, and trains a thousand times more slowly.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("qemu-system-x86_64", "busybox", "cpio", "modprobe", "exportfs", "mount.nfs", "rpcbind")
MODULES = (
    *("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_net"),
    *("nfs", "nfsv3", "nfsv4", "nfsd"),
)
SHARED = Path("/mnt/shared")  # on each client
NETWORK, SERVER, CLIENTS = "10.9.0.", 1, {"c1": 2, "c2": 3}
LEASE = 20  # seconds after which a server lets go the locks of a client that it does not hear of
PATIENCE = 60.0  # seconds in which a machine starts

# Of the first process: this machine's files, and what is written over them in memory.
INIT = """\
#!/bin/busybox sh
for kind in proc sysfs devtmpfs; do /bin/busybox mount -t $kind none /$kind; done
while read module; do /bin/busybox insmod /modules/$module; done < /order
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose host /host
/bin/busybox mount -t tmpfs tmpfs /written
/bin/busybox mkdir /written/upper /written/work
/bin/busybox mount -t overlay overlay /new \\
    -o lowerdir=/host,upperdir=/written/upper,workdir=/written/work
/bin/busybox mount --move /proc /new/proc
/bin/busybox mount --move /sysfs /new/sys
/bin/busybox mount --move /devtmpfs /new/dev
exec /bin/busybox switch_root /new /bin/bash {folder}/machine.sh
"""
MACHINE = """\
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
name=$(grep -o 'name=[^ ]*' /proc/cmdline | cut -d= -f2)
address=$(grep -o 'address=[^ ]*' /proc/cmdline | cut -d= -f2)
hostname $name
for folder in /run /tmp/own /dev/shm /var/lib/nfs; do
    mkdir -p $folder && mount -t tmpfs tmpfs $folder
done
mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/v4recovery
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
ip link set lo up
device=$(ls /sys/class/net | grep -v lo)
ip link set $device up && ip addr add $address/24 dev $device
rpcbind -w; rpc.statd --no-notify
bash {folder}/$name.sh
echo o > /proc/sysrq-trigger
sleep 60
"""
SERVE = """\
mkdir -p /srv/shared && mount -t tmpfs tmpfs /srv/shared
mount -t nfsd nfsd /proc/fs/nfsd
echo {lease} > /proc/fs/nfsd/nfsv4leasetime; echo {lease} > /proc/fs/nfsd/nfsv4gracetime
exportfs -o rw,no_root_squash,fsid=0,insecure,no_subtree_check '*:/srv/shared'
rpc.nfsd 8; rpc.mountd
while sleep 1; do
    if rm /srv/shared/restart 2> /dev/null; then rpc.nfsd 0; sleep 5; rpc.nfsd 8; fi
done
"""
MOUNT = """\
mkdir -p {shared}
until mount -t nfs -o {options},hard {server}:{exported} {shared}; do sleep 1; done
cd {shared}
"""


def missing() -> list[str]:
    """Return what of it is not installed."""
    programs = [name for name in PROGRAMS if shutil.which(name) is None]
    return programs + ([] if list(kernels()) else ["linux-image-amd64"])


def kernels() -> Iterator[str]:
    """Yield the versions of the kernels that are installed with their modules."""
    for image in Path("/boot").glob("vmlinuz-*"):
        version = image.name.partition("-")[2]
        if Path("/lib/modules", version).is_dir():
            yield version


class Machine:
    """A machine that is on; what it prints goes to a file."""

    def __init__(self, folder: Path, name: str, address: int, script: str) -> None:
        """script: what it does, in a shell; it goes off at its end."""
        (folder / f"{name}.sh").write_text(script)
        self.printed = folder / f"{name}.out"
        (version, *_) = kernels()
        where = f"name={name} address={NETWORK}{address}"
        network = "socket,id=network,mcast=230.0.0.1:12345,localaddr=127.0.0.1"
        host = "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"
        command = [
            *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "3072", "-no-reboot"),
            *("-nographic", "-kernel", f"/boot/vmlinuz-{version}"),
            *("-initrd", f"{folder}/initrd", "-append", f"console=ttyS0 quiet panic=-1 {where}"),
            *("-fsdev", host, "-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
            *("-netdev", network),
            *("-device", f"virtio-net-pci,netdev=network,mac=52:54:00:00:00:{address:02}"),
        ]
        with self.printed.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    def said(self) -> str:
        return self.printed.read_text(errors="replace").replace("\r", "")

    def until_said(self, text: str, seconds: float) -> None:
        """Wait until it prints a text. Raises TimeoutError, with all that it printed."""
        end = time.monotonic() + seconds
        while text not in self.said():
            if time.monotonic() > end or self.process.poll() is not None:
                raise TimeoutError(f"{text!r} was not said in {seconds} s:\n{self.said()}")
            time.sleep(0.2)

    def end(self, seconds: float) -> str:
        """Wait until it goes off; return what it printed. Raises TimeoutError as above."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"it was not done in {seconds} s:\n{self.said()}") from None
        return self.said()

    def pull_the_plug(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running(folder: Path, options: str, scripts: dict[str, str]) -> Iterator[dict[str, Machine]]:
    """Lend clients by their names, each with a script that it begins in the folder they share.

    folder: for files of theirs; they see it. options: of the mount.
    """
    make_initrd(folder)
    (folder / "machine.sh").write_text(MACHINE.format(folder=folder))
    exported = "/srv/shared" if "vers=3" in options else "/"
    mount = MOUNT.format(
        shared=SHARED, options=options, server=f"{NETWORK}{SERVER}", exported=exported
    )
    server = Machine(folder, "server", SERVER, SERVE.format(lease=LEASE))
    clients = {
        name: Machine(folder, name, address, mount + scripts[name])
        for name, address in CLIENTS.items()
    }
    try:
        yield clients
    finally:
        for machine in (*clients.values(), server):
            machine.pull_the_plug()


def make_initrd(folder: Path) -> None:
    """Write what a machine begins with: busybox, the modules of its kernel, and INIT."""
    (version, *_) = kernels()
    root = folder / "initrd.d"
    for name in ("bin", "modules", "proc", "sysfs", "devtmpfs", "host", "written", "new"):
        (root / name).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), root / "bin" / "busybox")
    order: list[Path] = []
    for module in MODULES:
        asked = ["modprobe", "--show-depends", "-S", version, module]
        told = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
        order += [Path(line.split()[1]) for line in told.splitlines() if line.startswith("insmod")]
    for path in order:
        shutil.copy(path, root / "modules")
    names = dict.fromkeys(path.name for path in order)
    (root / "order").write_text("".join(f"{name}\n" for name in names))
    (root / "init").write_text(INIT.format(folder=folder))
    os.chmod(root / "init", 0o755)
    files = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc"],
        cwd=root,
        input=files.encode(),
        check=True,
        capture_output=True,
    )
    (folder / "initrd").write_bytes(gzip.compress(packed.stdout, 1))
