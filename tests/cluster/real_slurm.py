"""A real Slurm on this machine: its daemons from the system's packages, two nodes on loopback.

    apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
    python -m tests.cluster.real_slurm nnlab hydra/launcher=slurm seed=range(0,100)

runs one command with it, as root or any user, also in a container without systemd. Everything is
in a temporary folder; there is no slurmdbd, and of control groups nothing is asked.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun")
NODES, CPUS, MEMORY = ("n1", "n2"), 2, 8000  # of each node; megabytes
MOST_JOBS, MOST_TASKS = 60, 40
PATIENCE = 30.0  # seconds that the daemons have to start, and jobs to end
# AuthInfo: a job that is requeued waits as long as credentials last. SlurmdParameters: the nodes
# may have more than the machine.
CONFIGURATION = """\
ClusterName=nnlab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=3
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2
MpiDefault=none
ReturnToService=2
JobRequeue=1
MinJobAge=60
KillWait=5
OverTimeLimit=0
MaxJobCount={jobs}
MaxArraySize={tasks}
"""
NODE = "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory={memory}\n"
PARTITIONS = """\
PartitionName=main Nodes=ALL Default=YES MaxTime=60 DefMemPerCPU=500
PartitionName=one Nodes=n1 MaxTime=60 DefMemPerCPU=500
"""


def missing() -> list[str]:
    """Return which of its programs are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextlib.contextmanager
def running() -> Iterator[dict[str, str]]:
    """Lend a Slurm that takes jobs: the environment variables by which commands find it.

    Its jobs and daemons end with this block. Raises TimeoutError, with what the daemons say,
    where it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        os.chmod(folder, 0o755)  # munged refuses a socket that others could not reach
        configure(folder)
        found = {"SLURM_CONF": str(folder / "slurm.conf")}
        stack.enter_context(daemon(munged(folder), folder))
        until(lambda: (folder / "munge.socket").exists(), folder)
        stack.enter_context(daemon(["slurmctld", "-D"], folder, found))
        for node in NODES:
            stack.enter_context(daemon(["slurmd", "-D", "-N", node], folder, found))
        until(lambda: ask("sinfo -h -N -p main -o %T", found).split() == ["idle"] * len(NODES), folder)
        try:
            yield found
        finally:
            everybody = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True)
            ask(f"scancel --full -u {everybody.stdout.strip()}", found)
            until(lambda: not ask("squeue -h -t R,CG,S", found).strip(), folder)


def configure(folder: Path) -> None:
    """Write its files, with ports that are free and a key of its own."""
    host, ports = socket.gethostname().partition(".")[0], free_ports(1 + len(NODES))
    user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
    text = CONFIGURATION.format(
        folder=folder, host=host, ports=ports, user=user, jobs=MOST_JOBS, tasks=MOST_TASKS
    )
    for node, port in zip(NODES, ports[1:]):
        text += NODE.format(node=node, host=host, port=port, cpus=CPUS, memory=MEMORY)
        (folder / node).mkdir()
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(text + PARTITIONS)
    version = subprocess.run(["slurmctld", "-V"], check=True, capture_output=True, text=True).stdout
    year = int((re.search(r"\d+", version) or ["0"])[0])
    (folder / "cgroup.conf").write_text(
        "CgroupPlugin=disabled\n" if year >= 24 else "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"
    )
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def munged(folder: Path) -> list[str]:
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
    options = [f"--{option}={folder}/munge.{name}" for option, name in files.items()]
    return ["munged", "--foreground", "--force", f"--seed-file={folder}/munge.seed", *options]


@contextlib.contextmanager
def daemon(
    command: Sequence[str], folder: Path, environment: dict[str, str] | None = None
) -> Iterator[None]:
    """Run a daemon in this block, its output in the folder."""
    name = command[0] if command[-1] not in NODES else command[-1]
    with (folder / f"{name}.out").open("w") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(command: str, environment: dict[str, str]) -> str:
    """Return what one of Slurm's commands prints, whether or not it succeeds."""
    return subprocess.run(
        command.split(),
        env={**os.environ, **environment},
        timeout=PATIENCE,
        capture_output=True,
        text=True,
    ).stdout


def until(holds, folder: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            said = [path.read_text(errors="replace")[-2000:] for path in folder.glob("*.log")]
            raise TimeoutError("\n".join(["Slurm does not answer", *said]))
        time.sleep(0.1)


def main() -> int:
    if absent := missing():
        print(f"not installed: {', '.join(absent)}", file=sys.stderr)
        return 1
    with running() as found:
        return subprocess.run(sys.argv[1:], env={**os.environ, **found}).returncode


if __name__ == "__main__":
    sys.exit(main())
