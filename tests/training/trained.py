"""A finished run of each kind, which tests look at."""

import json
from pathlib import Path

import pytest
import yaml

from ofq.config import params
from ofq.config.resolve import resolve
from ofq.data.prepare import prepare
from ofq.runs.paths import Run
from ofq.training.qat import run_qat
from ofq.training.teacher import run_teacher
from tests.conftest import ROOT, SMALL

TEACHER = Run("digits", "vit_micro", "fp", "teacher", 0)

STATSQ = Run("digits", "vit_micro", "w2a2", "statsq", 0)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with parameters, data, a teacher and finished runs of both kinds of attention."""
    root = tmp_path_factory.mktemp("trained")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["recipes"]["digits"] = SMALL
    (root / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        loaded = params.load()
        prepare("digits", loaded.studies["digits"].data)
        run_teacher(TEACHER, resolve(loaded, TEACHER))
        for variant in ("statsq", "statsq-qkr", "lsq"):
            run_qat(STATSQ.sibling(variant), resolve(loaded, STATSQ.sibling(variant)))
    return root


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    monkeypatch.chdir(trained)
    return params.load()


def step_events(run: Run) -> list[dict[str, float]]:
    events = [json.loads(line) for line in run.files.events.read_text().splitlines()]
    return [event for event in events if event["event"] == "step"]
