"""Short runs on a card: the same numbers to the last bit, stopped or not, in every precision."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ofq.config import params
from ofq.config.resolve import Keeping, resolve
from ofq.data.prepare import prepare
from ofq.errors import Stopped
from ofq.measure.noise import run_noise
from ofq.measure.probe import run_probe
from ofq.runs.files import read_json
from ofq.runs.paths import Run
from ofq.training import loop
from ofq.training.anneal import run_cga
from ofq.training.qat import run_qat
from ofq.training.teacher import run_teacher
from tests.conftest import ROOT, SMALL

HARDWARE: dict[str, dict[str, Any]] = {
    "bf16-compiled": {"precision": "bf16", "compile": True, "runs_per_gpu": 2},
    "bf16": {"precision": "bf16"},
    "tf32": {"precision": "tf32"},
    "float32": {},
}
TEACHER = Run("digits", "vit_micro", "fp", "teacher", 0)
STUDENT = Run("digits", "vit_micro", "w2a2", "statsq-qkr", 0)
CGA, FREEZING = STUDENT.sibling("statsq-qkr-cga"), STUDENT.sibling("lsq-freezing")
RUNS = {TEACHER: run_teacher, STUDENT: run_qat, CGA: run_cga, FREEZING: run_qat}
REMADE = [
    ("bf16-compiled", STUDENT),
    ("bf16", STUDENT),
    ("bf16", CGA),
    ("bf16", FREEZING),
    ("tf32", STUDENT),
    ("float32", TEACHER),
]
"""What is made twice, by the hardware; to compile it takes most of the time."""


@pytest.fixture(scope="module")
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[params.Params]:
    """A small study on a card, with its teacher and student; its project is the working directory."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["recipes"]["digits"] = SMALL
    content["studies"]["digits"]["hardware"] = {"device": "cuda", **HARDWARE[request.param]}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        Path("params.yaml").write_text(yaml.safe_dump(content))
        loaded = params.load()
        prepare("digits", loaded.studies["digits"].data)
        for run in (TEACHER, STUDENT):
            train(loaded, run)
        yield loaded


def train(settings: params.Params, run: Run) -> None:
    torch._dynamo.reset()  # as in a process of its own
    RUNS[run](run, resolve(settings, run), Keeping(runs_per_gpu=settings.studies["digits"].hardware.runs_per_gpu))


@pytest.mark.parametrize("study", ["bf16-compiled"], indirect=True)
def test_every_weight_of_a_student_is_trained(study: params.Params) -> None:
    before, after = (load_file(run.files.model) for run in (TEACHER, STUDENT))
    weights = [name for name in after if name.endswith("weight") and after[name].ndim > 1 and name in before]
    shrunk = {name: (after[name] / before[name]).std() for name in weights}  # decay alone: all by the same factor
    assert len(weights) > 5 and min(shrunk.values()) > 1e-4, shrunk


def contents(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.files.published if path != run.files.info}


@pytest.mark.parametrize(
    ("study", "run"), REMADE, indirect=["study"], ids=lambda value: getattr(value, "variant", value)
)
def test_a_run_that_is_made_again_and_stopped_ends_as_the_first_to_the_last_bit(
    study: params.Params, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not run.files.info.exists():
        train(study, run)
    undisturbed = contents(run)
    make = loop.make_schedule

    def make_schedule(*arguments: Any) -> Any:
        schedule = make(*arguments)
        update = schedule.step_update

        def step_update(number: int) -> None:
            if number == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            update(number)

        schedule.step_update = step_update  # type: ignore[method-assign]
        return schedule

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop, "make_schedule", make_schedule)
        train(study, run)
    train(study, run)
    assert contents(run) == undisturbed


@pytest.mark.parametrize("study", ["bf16-compiled", "float32"], indirect=True)
def test_run_json_says_where_and_how(study: params.Params) -> None:
    info, asked = read_json(STUDENT.files.info), study.studies["digits"].hardware
    found = info["hardware"]
    assert found["device"] == info["device"] == torch.cuda.get_device_name()
    assert (found["precision"], found["compiled"]) == (asked.precision, asked.compile)
    assert found["deterministic"] is True and found["driver"] and found["cuda"] and found["cudnn"]
    assert info["gpu_memory_mib"] > 0 and 0 < info["gpu_seconds"] <= info["seconds"]


@pytest.mark.parametrize("study", ["bf16-compiled"], indirect=True)
def test_finished_runs_are_measured_in_float32(study: params.Params) -> None:
    config = resolve(study, STUDENT)
    run_noise(STUDENT, config, trials=1)
    summaries = []
    for _ in range(2):
        run_probe(STUDENT, config, steps=5)
        summaries.append(read_json(STUDENT.files.root / "probe-5.json"))
    assert summaries[0] == summaries[1]
    hardware = summaries[0]["hardware"]
    assert hardware["precision"] == "float32" and not hardware["compiled"]
    assert hardware["device"] == torch.cuda.get_device_name()
