"""A copy of the workflow, and the short study that is run in it."""

import csv
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ofq.config.grid import Grid
from ofq.config.params import load
from ofq.config.resolve import resolve
from ofq.environment import DRILL
from ofq.runs import paths
from ofq.runs.paths import RESULTS, STATE, Run
from tools.drill.observe import RunFolder
from tools.scratch import copy_workflow, environment

PARAMS = Path(__file__).with_name("params.yaml").read_text()
"""Text of the ``params.yaml`` of the short study."""


@dataclass(frozen=True)
class Copy:
    """A copy of the workflow at ``root``; ``mark`` is what all that is started in it carries."""

    root: Path
    mark: str

    def make(self, params: str) -> None:
        """Copy the workflow of the project in the working directory, with that text of ``params.yaml``."""
        copy_workflow(Path.cwd(), self.root, params)

    @property
    def log(self) -> Path:
        """File of all that Snakemake printed here."""
        return self.root.with_suffix(".log")

    @cached_property
    def folders(self) -> dict[Run, RunFolder]:
        """The runs of its study, the teacher first."""
        params = load(self.root / paths.PARAMS)
        grid = Grid(params, params.study)
        trained = {run: resolve(params, run).train for run in (*grid.teachers, *grid.runs)}
        return {run: RunFolder(self.root, run, train.length) for run, train in trained.items() if train}

    def start(self) -> "subprocess.Popen[bytes]":
        """Start plain ``snakemake`` as a user would, in a session of its own."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["snakemake"],
                cwd=self.root,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def last_lines(self) -> str:
        """Return the end of what Snakemake printed, for an error."""
        return _ending(self.log.read_text(errors="replace"))

    def remove(self, run: Run, *, data: bool) -> None:
        """Remove the results of a run, and the data's manifest if asked to, as a user would who wants them anew."""
        for path in (self.root / RESULTS / str(run)).glob("[!.]*"):
            path.unlink()
        if data:
            (self.root / paths.data_dir(run.study) / "manifest.json").unlink()

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with a finished study: jobs to do, files of unknown origin, states, temporary files."""
        plan = self._ask("-n")
        if "Nothing to be done" not in plan.stdout + plan.stderr:
            yield f"snakemake -n still plans something: {_ending(plan.stdout + plan.stderr)}"
        # A job that outlives a killed Snakemake can leave files that no later change would make anew.
        rows = list(csv.DictReader(self._ask("--summary").stdout.splitlines(), delimiter="\t"))
        if not rows:
            yield "snakemake --summary knows no file"
        for row in rows:
            if row["log-file(s)"] == "-":  # recorded with the file: every rule has a log
                yield f"snakemake does not know what made {row['output_file']}"
        states = [path for path in (self.root / STATE).rglob("*") if path.is_file()]
        for path in sorted(states) + sorted((self.root / RESULTS).rglob(".*")):
            yield f"left behind: {path.relative_to(self.root)}"

    @property
    def _environment(self) -> dict[str, str]:
        # Sockets of warm processes that were killed lie among the temporary files: they go with the copy.
        return environment(self.root) | {DRILL: self.mark, "TMPDIR": str(self.root.parent)}

    def _ask(self, option: str) -> "subprocess.CompletedProcess[str]":
        """Run ``snakemake`` with an option that starts no job."""
        command = ["snakemake", option]
        return subprocess.run(command, cwd=self.root, env=self._environment, capture_output=True, text=True)


def _ending(text: str) -> str:
    """Return the last five lines of a text in one."""
    return " | ".join(text.strip().splitlines()[-5:])
