"""A real SLURM of one node, for one command: ``python -m tools.slurm snakemake --workflow-profile profiles/slurm``.

Its configuration, key, sockets, states and logs lie in a temporary folder, nothing below ``/etc`` is changed, and it
ends with the command. It listens on SLURM's usual ports, so there is one at a time, and none where another SLURM is.
One core takes one job after the other; a card is stood in for by a file, so that jobs can ask for one.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from ofq.errors import UserError

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
_DAEMONS = {"munged", "slurmctld", "slurmd", "slurmdbd", "slurmstepd"}
_ETC = Path("/etc")
_OF_THE_PACKAGE = {"plugstack.conf"}  # comes with Debian's, and configures nothing
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_ASKING = 20  # seconds for any one call
_STARTING = 60  # seconds
# A node that comes back names the jobs that it has. SLURM misses none that began less than BatchStartTimeout and
# MessageTimeout ago, of ten seconds each: that one may be about to start, and is then believed to run for ever.
_DOWN = 22

_CONFIGURATION = """\
ClusterName=ofq
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that is requeued waits for the end of its first credential.
AuthInfo=socket={root}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
MinJobAge=300
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=8000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def check(environ: Mapping[str, str] = os.environ) -> None:
    """Raise :class:`UserError` where there is a SLURM already, or where none is installed."""
    if set_here := sorted(name for name in environ if name.startswith("SLURM_")):
        raise UserError(f"{set_here[0]} is set, so there is a SLURM here already; it is left alone")
    files = [path for path in sorted(_ETC.glob("slurm*/*.conf")) if path.name not in _OF_THE_PACKAGE]
    if files:
        raise UserError(f"{files[0]} configures a SLURM that is here already; it is left alone")
    if running := sorted({process.info["name"] for process in psutil.process_iter(["name"])} & _DAEMONS):
        own = "; if it serves no SLURM: systemctl stop munge" if running == ["munged"] else ""
        raise UserError(f"{running[0]} runs here already; it is left alone{own}")
    if missing := [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]:
        raise UserError(f"{missing[0]} is not installed; on Debian and Ubuntu: apt-get install slurm-wlm")


class Cluster:
    """The daemons of one node, and what runs on it.

    Args:
        root: an empty folder of its own.
        cores: that the node says it has.

    Attributes:
        environ: environment for the programs that use it.
    """

    def __init__(self, root: Path, cores: int) -> None:
        self._root, self._cores = root, cores
        self._configuration = root / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environ = os.environ | {
            "SLURM_CONF": str(self._configuration),
            "PATH": f"{root / 'bin'}{os.pathsep}{_PATH}",
        }

    def start(self) -> None:
        """Start it, and wait until the node takes jobs.

        Raises:
            UserError: it does not come up.
        """
        root = self._root
        host, user = os.uname().nodename.partition(".")[0], psutil.Process().username()
        for name in ("state", "spool", "bin"):
            (root / name).mkdir()
        self._configuration.write_text(_CONFIGURATION.format(host=host, user=user, root=root, cores=self._cores))
        (root / "gres.conf").write_text("Name=gpu File=/dev/zero\n")
        # Snakemake's job takes all variables of SLURM from the srun that it calls, and with them this one.
        wrapper = root / "bin/srun"
        real = shutil.which("srun", path=_PATH)
        wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={self._configuration} exec {real} "$@"\n')
        wrapper.chmod(0o755)
        key = root / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = [f"--{name}-file={root / 'munge'}.{name}" for name in ("key", "pid", "log", "seed")]
        self._start("munged", "--foreground", "--force", f"--socket={root / 'munge.socket'}", *files)
        self._wait_for((root / "munge.socket").exists)
        self._start("slurmctld", "-D", "-c")
        self._start("slurmd", "-D")
        self._wait_for(lambda: self.ask("sinfo", "--noheader", "--format=%T").strip() == "idle")

    def stop(self) -> None:
        """End what runs on it, and then itself."""
        for name in ("slurmd", "slurmctld", "munged"):
            if (process := self._daemons.pop(name, None)) is not None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_ASKING)
                process.kill()
                process.wait()
            if name == "slurmd":
                self._kill_jobs()

    def crash(self) -> None:
        """Let the node fail as a power failure would, with all that runs on it, and come up again."""
        slurmd = self._daemons["slurmd"]
        slurmd.kill()
        slurmd.wait()
        self._kill_jobs()
        time.sleep(_DOWN)
        self._start("slurmd", "-D")

    def ask(self, *command: str) -> str:
        """Run one of SLURM's commands and return what it prints; nothing where it fails."""
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=_ASKING, check=False)
        return done.stdout if done.returncode == 0 else ""

    def _start(self, name: str, *arguments: str) -> None:
        program = str(shutil.which(name, path=_PATH))
        with (self._root / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [program, *arguments], env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _STARTING
        while not condition():
            ended = [name for name, process in self._daemons.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                name = ended[0] if ended else "slurmctld"
                last = (self._root / f"{name}.log").read_text(errors="replace").splitlines()[-1:]
                raise UserError(f"{name} does not come up: {''.join(last)}")
            time.sleep(0.2)

    def _kill_jobs(self) -> None:
        """Kill what jobs run, and the daemons of their steps."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environ = process.environ()
                of_a_job = "SLURM_JOB_ID" in environ and environ.get("SLURM_CONF") == str(self._configuration)
                if of_a_job or process.name() == "slurmstepd":  # none was here before
                    process.kill()


@contextlib.contextmanager
def one_node(cores: int = 1) -> Iterator[Cluster]:
    """Run a SLURM of one node with so many cores while the context lasts.

    Raises:
        UserError: there is one already, none is installed, or it does not come up.
    """
    check()
    with tempfile.TemporaryDirectory(prefix="ofq-slurm-") as folder:
        cluster = Cluster(Path(folder), cores)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def main(command: list[str]) -> int:
    """Run a command beside a SLURM of one node; return its exit code, or 2 for a mistake of the caller's."""
    handler = signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    try:
        if not command:
            raise UserError("which command? as in: python -m tools.slurm sinfo")
        if shutil.which(command[0], path=_PATH) is None:
            raise UserError(f"{command[0]}: no such command")
        with one_node() as cluster:
            return subprocess.run(command, env=cluster.environ, check=False).returncode
    except UserError as error:
        print(f"ofq: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the command had it too
        return 130
    finally:
        signal.signal(signal.SIGTERM, handler)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
