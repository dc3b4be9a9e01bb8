"""A real Slurm on this machine: its daemons from the system's packages, two nodes on loopback.

    apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
    apt-get install --no-install-recommends slurmdbd mariadb-server  # where it has accounts
    python -m tests.cluster.real_slurm nnlab hydra/launcher=slurm seed=range(0,100)

runs one command with it, as root or any user, also in a container without systemd. Everything is
in a temporary folder; there is no slurmdbd, and of control groups nothing is asked.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun")
OF_ACCOUNTS = ("slurmdbd", "sacctmgr", "mariadbd", "mariadb-install-db")
NODES, CPUS, MEMORY = ("n1", "n2"), 2, 8000  # of each node; megabytes
URGENT = "urgent"  # the partition whose jobs displace those of others
BLIND = "n3"  # does not see the folder ``hidden``; where the system allows such a node
MOST_JOBS, MOST_TASKS = 60, 6  # in the queue, in an array
# Slurm's own are 3 and 60 seconds: it looks for jobs to start no more often.
AT_ONCE = "SchedulerParameters=batch_sched_delay=0,sched_interval=2\n"
PATIENCE = 30.0  # seconds that the daemons have to start, and jobs to end
# AuthInfo: a job that is requeued waits as long as credentials last. SlurmdParameters: the nodes
# may have more than the machine.
CONFIGURATION = """\
ClusterName=nnlab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
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
{scheduling}MpiDefault=none
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=60
KillWait=5
OverTimeLimit=0
MaxJobCount={jobs}
MaxArraySize={tasks}
"""
ACCOUNTED = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations,limits,qos
"""
SLURMDBD = """\
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=root
"""
ACCOUNT, QOS, MOST_OF_QOS = "lab", "few", 2  # the latter: jobs that a user has in it
ACCOUNTS = (
    "add cluster nnlab",
    f"add account {ACCOUNT}",
    f"add qos {QOS} set MaxSubmitJobsPerUser={MOST_OF_QOS} Flags=DenyOnLimit",
    f"add user {{user}} account={ACCOUNT} qos=normal,{QOS}",
)
NODE = (
    "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} "
    "RealMemory={memory}\n"
)
PARTITION = (
    "PartitionName={name} Nodes={nodes} Default={default} PriorityTier={tier} MaxTime=60 "
    "DefMemPerCPU=500\n"
)


def missing(programs: Sequence[str] = PROGRAMS) -> list[str]:
    """Return which of its programs are not installed."""
    return [name for name in programs if shutil.which(name) is None]


@contextlib.contextmanager
def running(
    jobs: int = MOST_JOBS,
    tasks: int = MOST_TASKS,
    accounts: bool = False,
    scheduling: str = AT_ONCE,
) -> Iterator[dict[str, str]]:
    """Lend a Slurm that takes jobs: the environment variables by which commands find it.

    jobs: the most in its queue. tasks: in an array. accounts: whether it has slurmdbd, and only
    takes jobs of the accounts there. scheduling: how often it looks for jobs to start; "": as Slurm
    does if nobody says otherwise.
    Its jobs and daemons end with this block. Raises TimeoutError, with what the daemons say,
    where it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        os.chmod(folder, 0o755)  # munged refuses a socket that others could not reach
        ports = configure(folder, jobs, tasks, accounts, scheduling)
        found = {"SLURM_CONF": str(folder / "slurm.conf")}
        stack.enter_context(daemon(munged(folder), folder / "munged.out"))
        until(lambda: (folder / "munge.socket").exists(), folder)
        if accounts:
            keep_accounts(folder, ports["database"], found, stack)
        stack.enter_context(daemon(["slurmctld", "-D"], folder / "slurmctld.out", found))
        for node in NODES:
            command = ["slurmd", "-D", "-N", node]
            stack.enter_context(daemon(command, folder / f"{node}.out", found))
        if can_hide():
            hide = f"mount -t tmpfs none {folder}/hidden && exec slurmd -D -N {BLIND}"
            command = ["unshare", "--mount", "sh", "-c", hide]
            stack.enter_context(daemon(command, folder / f"{BLIND}.out", found))
        until(
            lambda: ask("sinfo -h -N -p main -o %T", found).split() == ["idle"] * len(NODES), folder
        )
        try:
            yield found
        finally:
            ask(f"scancel --full -u {user()}", found)
            until(lambda: not ask("squeue -h -t R,CG,S", found).strip(), folder)


def configure(
    folder: Path, jobs: int, tasks: int, accounts: bool, scheduling: str
) -> dict[str, int]:
    """Write its files, with a key of its own and ports that are free; return those."""
    nodes = (*NODES, BLIND)
    names = ("port", "dbd", "database", *nodes)
    ports = dict(zip(names, free_ports(len(names))))
    host = socket.gethostname().partition(".")[0]
    given = {**ports, "folder": folder, "host": host, "user": user()}
    text = CONFIGURATION.format(**given, jobs=jobs, tasks=tasks, scheduling=scheduling)
    if accounts:
        text += ACCOUNTED.format(**given)
        dbd = folder / "slurmdbd.conf"
        dbd.touch(mode=0o600)  # it takes no other
        dbd.write_text(SLURMDBD.format(**given))
    for node in nodes:
        text += NODE.format(node=node, host=host, port=ports[node], cpus=CPUS, memory=MEMORY)
    main = ",".join(NODES)
    text += PARTITION.format(name="main", nodes=main, default="YES", tier=1)
    text += PARTITION.format(name=URGENT, nodes=main, default="NO", tier=2)
    text += PARTITION.format(name="blind", nodes=BLIND, default="NO", tier=1)
    (folder / "slurm.conf").write_text(text)
    for name in (*nodes, "state", "hidden"):
        (folder / name).mkdir()
    version = subprocess.run(["slurmctld", "-V"], check=True, capture_output=True, text=True).stdout
    year = int((re.search(r"\d+", version) or ["0"])[0])
    (folder / "cgroup.conf").write_text(
        "CgroupPlugin=disabled\n" if year >= 24 else "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"
    )
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    return ports


def keep_accounts(
    folder: Path, port: int, found: Mapping[str, str], stack: contextlib.ExitStack
) -> None:
    """Start what keeps accounts, a database and slurmdbd, until the stack is closed; make them."""
    own = ["--no-defaults", f"--datadir={folder}/database", f"--user={user()}"]
    install = ["mariadb-install-db", *own, "--auth-root-authentication-method=normal"]
    subprocess.run([*install, "--skip-test-db"], check=True, capture_output=True)
    where = [f"--socket={folder}/database.socket", f"--port={port}", "--bind-address=127.0.0.1"]
    stack.enter_context(daemon(["mariadbd", *own, *where], folder / "mariadbd.log"))
    until(lambda: (folder / "database.socket").exists(), folder)
    stack.enter_context(daemon(["slurmdbd", "-D"], folder / "slurmdbd.out", found))
    until(lambda: ask("sacctmgr -n list qos", found), folder)
    for each in ACCOUNTS:
        ask(f"sacctmgr -i {each.format(user=user())}", found)


def user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def can_hide() -> bool:
    """Return whether a process may have a view of its own of the file system."""
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


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
    command: Sequence[str], said: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run a daemon in this block; said: the file for what it prints."""
    with said.open("w") as out:
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


def ask(command: str, environment: Mapping[str, str]) -> str:
    """Return what one of Slurm's commands prints, whether or not it succeeds."""
    return subprocess.run(
        shlex.split(command),
        env={**os.environ, **environment},
        timeout=PATIENCE,
        capture_output=True,
        text=True,
    ).stdout


def until(holds: Callable[[], object], folder: Path) -> None:
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
