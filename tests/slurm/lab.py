"""A real Slurm on this machine: every node with its own network, address, host name and sshd.

Up in about a second, and one process to kill: the head. It is the first process of a namespace of
its own, and the nodes are below it, so nothing outlives it, not even when the tests are killed.
The network exists in there only; the machine's own is not touched. Files are shared by all nodes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from launcher import orphan

HERE = Path(__file__).resolve().parent
NET = "10.77.0"  # inside the head's namespace
START_SECONDS = 60.0
# Programs of the cluster itself.
OWN = {"bash", "unshare", "munged", "slurmctld", "slurmscriptd", "slurmd", "sshd", "ps"}
CHARACTER = 0o020000  # the kind of file that a GPU is

CONF = """\
ClusterName=lab
SlurmctldHost=head({net}.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={root}/munge/sock,cred_expire=5
StateSaveLocation={root}/state
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/spool.%n/pid
SlurmdSpoolDir={root}/spool.%n
TmpFS={root}/tmp.%n
SlurmctldLogFile={root}/log/slurmctld
SlurmdLogFile={root}/log/slurmd.%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=0,bf_interval=1,batch_sched_delay=0
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=2
MinJobAge=3600
{gres}{nodes}
PartitionName=main Nodes=n[1-{count}] Default=YES MaxTime=INFINITE State=UP
"""
NVIDIA_SMI = """\
#!/bin/sh
for i in $(seq 0 {last}); do
    case "$1" in
    --query-gpu=*) echo "$i, stand-in, 0.0, 0" ;;
    *) echo "$i, No, No" ;;
    esac
done
"""
SSH_CLIENT = """\
Host *
 IdentityFile {root}/ssh/id
 StrictHostKeyChecking no
 UserKnownHostsFile /dev/null
 LogLevel ERROR
"""
SSH_SERVER = """\
HostKey {root}/ssh/id
AuthorizedKeysFile {root}/ssh/id.pub
UsePAM no
StrictModes no
PidFile none
PermitRootLogin yes
MaxStartups 100
"""


class SlurmLab:
    """`with SlurmLab(nodes=4) as lab: lab.run(["sinfo"])`.

    `root` is its folder, gone afterwards. It is not below pytest's own, which is closed to others:
    munge wants a path that everyone may walk, and jobs may be other users'.
    """

    def __init__(self, nodes: int = 4, gpus: int = 8, cpus: int = 16) -> None:
        if os.getuid() != 0:
            raise RuntimeError("the tests on Slurm need root, for the nodes' own networks")
        subprocess.run([str(HERE / "install.sh")], check=True)
        self.root = Path(tempfile.mkdtemp(prefix="slurmlab-")).resolve()
        self.nodes, self.gpus, self.cpus = nodes, gpus, cpus
        self._head: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def __enter__(self) -> SlurmLab:
        self._write()
        self._head = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--uts", "--mount"),
                *("--pid", "--fork", "--mount-proc", "--kill-child"),
                *("bash", str(HERE / "head.sh"), str(self.root), str(self.nodes), NET),
                *behind_closed_doors(),
            ],
            stdin=subprocess.DEVNULL, stdout=(self.root / "log" / "head").open("wb"),
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not self._is_up():
            if self._head.poll() is not None or time.monotonic() > deadline:
                logs = self._logs()
                self.stop()
                raise RuntimeError(f"the Slurm of the tests did not start:\n{logs}")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything; returns when nothing is left."""
        if self._head is None:
            return
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)  # the namespace's first process: all follow
        try:
            self._head.wait(10)
        except subprocess.TimeoutExpired:
            self._head.kill()
            self._head.wait()
        self._head = None
        shutil.rmtree(self.root, ignore_errors=True)

    def run(
        self, words: Sequence[str], node: str = "head", check: bool = True, **options: object
    ) -> subprocess.CompletedProcess[str]:
        """A command on the head, or on a node."""
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            [*self.inside(node), *words], capture_output=True, text=True, check=check, **options
        )

    def inside(self, node: str = "head") -> list[str]:
        """What has to stand before a command so that it runs there, in the current folder."""
        pid = self._pid
        if node != "head":
            inner = (self.root / f"pid.{node}").read_text().strip()
            pid = self._outer(int(inner))
        enter = ["nsenter", f"--target={pid}", "--net", "--uts", "--mount", "--pid"]
        settings = [f"SLURM_CONF={self.root}/slurm.conf", f"PATH={self.path()}"]
        # The GPUs are none: trainings keep to the CPU, and nobody shall wonder.
        return [*enter, f"--wd={Path.cwd()}", "env", *settings, "DS_ACCELERATOR=cpu"]

    def path(self) -> str:
        """Where programs are looked for on the nodes."""
        return f"{self.root / 'bin'}:{os.environ['PATH']}"

    def strangers(self) -> list[str]:
        """Processes on any node that are none of the cluster's own: what a job has left behind."""
        lines = self.run(["ps", "-e", "-o", "stat=,comm=,args="]).stdout.splitlines()
        found = [(line.split()[:2], line) for line in lines]
        return [line for (state, name), line in found if state[0] != "Z" and name not in OWN]

    def processes(self) -> list[int]:
        """All processes of the cluster, oldest first, as this machine numbers them.

        They are those in the namespaces of the head and the nodes: what was started from outside
        (`run`) has a parent there.
        """
        spaces: dict[int, str] = {}
        parents: dict[int, int] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended meanwhile
                state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
                if state not in "ZX":
                    parents[int(folder.name)] = int(parent)
                    spaces[int(folder.name)] = str((folder / "ns" / "pid").readlink())
        ours, border = set[str](), {self._pid}
        while border:
            ours |= {spaces[pid] for pid in border if pid in spaces}
            border = {pid for pid, parent in parents.items() if parent in border}
        return sorted(pid for pid, space in spaces.items() if space in ours)

    def called(self, program: str, *words: str) -> list[int]:
        """Processes of a program, script or Python module, called with all of these words."""
        found = []
        for pid in self.processes():
            command = orphan._command(pid, Path("/proc"))
            if orphan._program(command) == program and set(words) <= set(command):
                found.append(pid)
        return found

    def off(self, node: str) -> None:
        """Cut a node's power: its network goes first, so nobody is told."""
        number = node.removeprefix("n")
        self.run(["ip", "link", "set", f"lab{number}", "down"])
        self.run(["sh", "-c", f"kill -9 $(cat {self.root}/pid.{node})"])

    def clear(self) -> None:
        """Between tests: no job, all nodes back, and nothing of a test that has failed."""
        for pid in self.processes():
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() not in OWN:
                    os.kill(pid, signal.SIGKILL)
        self.run(["scancel", "--full", "--partition=main"], check=False)
        for _ in range(200):
            if not self.run(["squeue", "--noheader"]).stdout.strip() and self._is_up():
                return
            names = f"nodename=n[1-{self.nodes}]"
            self.run(["scontrol", "update", names, "state=resume"], check=False)
            time.sleep(0.1)
        raise RuntimeError(f"the Slurm of the tests does not come to rest:\n{self._logs()}")

    def _is_up(self) -> bool:
        if not self._pid:
            assert self._head is not None
            self._pid = _child(self._head.pid)
            if not self._pid:
                return False
        found = self.run(["sinfo", "-h", "-t", "idle", "-o", "%D"], check=False)
        return found.stdout.strip() == str(self.nodes)

    def _outer(self, inner: int) -> int:
        """A process of the head's namespace, as this machine numbers it."""
        for path in Path("/proc").glob("[0-9]*/status"):
            try:
                text = path.read_text()
            except OSError:
                continue
            numbers = next(
                (line.split()[1:] for line in text.splitlines() if line.startswith("NSpid:")), []
            )
            if (
                len(numbers) > 1
                and numbers[1] == str(inner)
                and self._is_below(int(path.parent.name))
            ):
                return int(path.parent.name)
        raise RuntimeError(f"process {inner} of the test cluster is gone")

    def _is_below(self, pid: int) -> bool:
        while pid > 1:
            if pid == self._pid:
                return True
            try:
                pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                return False
        return False

    def _write(self) -> None:
        """The files that daemons read."""
        root = self.root
        for folder in ("munge", "state", "log", "dev", "ssh", "bin"):
            (root / folder).mkdir(parents=True)
        root.chmod(0o755)
        (root / "munge").chmod(0o755)  # munged wants exactly this
        key = root / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        make_key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / "ssh" / "id")]
        subprocess.run(make_key, check=True)
        (root / "ssh" / "client").write_text(SSH_CLIENT.format(root=root))
        (root / "ssh" / "server").write_text(SSH_SERVER.format(root=root))
        names = {f"{NET}.1": "head"}
        names.update({f"{NET}.{10 + i}": f"n{i}" for i in range(1, self.nodes + 1)})
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for address, name in names.items())]
        (root / "hosts").write_text("\n".join(lines) + "\n")
        # Names are looked up in that file only: an unreachable name server costs 20 s each time.
        (root / "nsswitch").write_text("passwd: files\ngroup: files\nhosts: files\n")
        for number in range(self.gpus):  # Slurm takes only character devices for GPUs
            os.mknod(root / "dev" / f"gpu{number}", 0o666 | CHARACTER, os.makedev(1, 3))
        smi = root / "bin" / "nvidia-smi"  # what jobs find to ask about these GPUs
        smi.write_text(NVIDIA_SMI.format(last=self.gpus - 1))
        smi.chmod(0o755)
        if self.gpus:
            (root / "gres.conf").write_text(f"Name=gpu File={root}/dev/gpu[0-{self.gpus - 1}]\n")
        gpus = f" Gres=gpu:{self.gpus}" if self.gpus else ""
        size = f"CPUs={self.cpus} RealMemory=16000{gpus} State=UNKNOWN"
        nodes = [f"NodeName=n{i} NodeAddr={NET}.{10 + i} {size}" for i in range(1, self.nodes + 1)]
        text = CONF.format(
            root=root, net=NET, count=self.nodes, nodes="\n".join(nodes),
            gres="GresTypes=gpu\n" if self.gpus else "",
        )  # fmt: skip
        (root / "slurm.conf").write_text(text)

    def _logs(self) -> str:
        parts = []
        for path in sorted((self.root / "log").iterdir()):
            lines = path.read_text(errors="replace").splitlines()[-5:]
            parts += [f"{path.name}: {line}" for line in lines]
        return "\n".join(parts)


def behind_closed_doors() -> list[str]:
    """Where the interpreter and the repository lie in a folder that other users may not enter."""
    found: dict[str, None] = {}
    for path in (Path(sys.executable).resolve(), HERE):
        way = [path, *path.parents]
        for inner, folder in zip(way, way[1:], strict=False):
            if not folder.stat().st_mode & stat.S_IXOTH:
                found[str(inner)] = None
    return list(found)


def _child(pid: int) -> int:
    """The first child of a process; 0 when there is none."""
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return int(words[0]) if words else 0
