"""How the time outside training grows with the number of runs: planning a study, and its report.

python -m benchmarks.dag                                prints the table, writes docs/images/growth-dag.svg
python -m benchmarks.dag --runs 50 100 --output /tmp/growth-dag.svg

Each study stands in a temporary copy of the workflow. Nothing but one short run of each variant is trained; all other
runs are copies of it under another name.
"""

import argparse
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import yaml

from benchmarks.rounds import conditions
from ofq.config import params
from ofq.config.grid import Grid
from ofq.config.params import Params
from ofq.report.artefacts import ARTEFACTS, CLAIMS
from ofq.runs.files import as_json, read_json, replacing, write_json
from ofq.runs.paths import Run
from ofq.runs.published import digest_of
from tools.scratch import copy_workflow, environment

BITS = ["w2a2", "w3a3", "w4a4"]
PLAN_NEW, PLAN_DONE, REPORT = "plan, nothing made", "plan, all made", "report"
FORECAST = "plan with hours, after an edit"
SNAKEMAKE = ["snakemake", "-n", "--quiet"]


def write_study(root: Path, *, seeds: int) -> Params:
    """A copy of the workflow whose study ``digits`` has so many seeds, and phases of a few steps."""
    content = yaml.safe_load(Path("params.yaml").read_text())
    phase = {"lr": 1e-3, "min_lr": 1e-4, "batch_size": 64, "steps": 12}
    content["recipes"]["digits"] = {"teacher": phase, "qat": phase, "cga": {"steps": 12}}
    grid = {key: content["studies"]["digits"][key] for key in ("data", "models", "variants", "recipe")}
    study = grid | {"bits": BITS, "seeds": list(range(seeds))}  # no groups
    study |= {"measure": ["noise", "probe"], "compare": [["statsq", "lsq"]]}
    content |= {"study": "digits", "studies": {"digits": study}}
    copy_workflow(Path(), root, yaml.safe_dump(content))
    return params.load(root / "params.yaml")


def run(root: Path, command: Sequence[str]) -> tuple[float, float]:
    """Seconds on the wall and of the processor, children included."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed: {done.stderr[-2000:]}")
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def fill(root: Path, parameters: Params) -> None:
    """Make one run of each variant, and every other run as a copy of it."""
    study = Grid(parameters, "digits").runs
    first = {run.variant: run for run in reversed(study)}
    asked = [one.files.metrics for one in first.values()]
    trained = [one for one in first.values() if one in Grid(parameters, "digits").trained]
    asked += [path for one in trained for path in (one.files.noise, one.files.probe)]
    run(root, ["snakemake", "--quiet", "all", "--", *map(str, asked)])
    for one in {*study, *(each.teacher for each in study)}:
        source: Run = first.get(one.variant, study[0].teacher)
        if one != source:
            shutil.copytree(root / source.files.root, root / one.files.root, dirs_exist_ok=True)
            metrics = read_json(root / one.files.metrics) | {"seed": one.seed}
            write_json(root / one.files.metrics, metrics)
            info = read_json(root / one.files.info) | {"run": str(one)}
            info["digests"]["outputs"][one.files.metrics.name] = digest_of(as_json(metrics))
            write_json(root / one.files.info, info)


def measure(seeds: int) -> tuple[int, dict[str, tuple[float, float]]]:
    """Number of runs, and seconds of each command; the report is all parts of it, which follow one by one."""
    with tempfile.TemporaryDirectory(prefix="ofq-dag-") as folder:
        root = Path(folder)
        parameters = write_study(root, seeds=seeds)
        count = len({*Grid(parameters, "digits").runs, *(each.teacher for each in Grid(parameters, "digits").runs)})
        found = {PLAN_NEW: run(root, SNAKEMAKE)}
        fill(root, parameters)
        grid = Grid(parameters, "digits")
        parts = [artefact.part for artefact in ARTEFACTS if artefact is CLAIMS or artefact.made(grid)]
        report = {part: run(root, ["python", "-m", "ofq", "report", part, "digits"]) for part in parts}
        for step in ("toy", "toy-figure"):  # part of the study's target, and of no size
            run(root, ["python", "-m", "ofq", step])
        run(root, ["snakemake", "--touch", "--forceall", "--quiet", "all"])
        found[PLAN_DONE] = run(root, SNAKEMAKE)
        edited = (root / "params.yaml").read_text().replace("lr: 0.001", "lr: 0.002")
        (root / "params.yaml").write_text(edited)
        found[FORECAST] = run(root, ["python", "-m", "ofq", "plan", "digits"])
        walls, processor = zip(*report.values(), strict=True)
        return count, found | {REPORT: (sum(walls), sum(processor))} | report


def main() -> None:
    """Print the table and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 300, 1000], help="roughly: whole seeds are taken")
    parser.add_argument("--output", type=Path, default=Path("docs/images/growth-dag.svg"))
    arguments = parser.parse_args()
    each = len(BITS) * len(params.load().studies["digits"].variants) + 1
    print(f"{conditions()}; seconds on the wall (of the processor)", flush=True)
    counts, seconds = [], []
    for wanted in arguments.runs:
        count, found = measure(max(1, round(wanted / each)))
        counts.append(count)
        seconds.append(found)
        cells = (f"{name} {wall:.1f} ({processor:.1f})" for name, (wall, processor) in found.items())
        print(f"{count:>5} runs: {', '.join(cells)}", flush=True)
    figure, panel = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for name in (PLAN_NEW, PLAN_DONE, FORECAST, REPORT):
        panel.plot(counts, [found[name][1] for found in seconds], marker="o", label=name)
    panel.set(xlabel="runs of the study", ylabel="processor time, s", xlim=(0, None), ylim=(0, None))
    panel.legend(frameon=False)
    with replacing(arguments.output) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
