"""A study so small that an epoch has five steps and a run of each variant takes a fraction of a second."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from ofq.config import params
from ofq.config.resolve import KEEPING, Keeping, resolve
from ofq.data.manifest import Files, read_manifest, write_manifest
from ofq.data.prepare import prepare, store
from ofq.environment import configure_logging
from ofq.runs.paths import Run, data_dir
from ofq.training.anneal import run_cga
from ofq.training.qat import run_qat
from ofq.training.teacher import run_teacher
from tests.conftest import ROOT

EPOCH = 5  # steps
STEPS = 12  # two epochs and a part of the third
RECIPE = {
    "teacher": {"lr": 3e-3, "min_lr": 1e-4, "batch_size": 64, "steps": STEPS, "warmup": 0.1},
    "qat": {"lr": 2e-3, "min_lr": 1e-4, "batch_size": 64, "steps": STEPS, "constant_steps": 2},
    "cga": {"steps": STEPS},
}
STEP_OF: dict[str, Callable[..., None]] = {"teacher": run_teacher, "qat": run_qat, "cga": run_cga}
# Variants of the project that between them run all of its code, parents first.
VARIANTS = ["lsq", "lsq-midrise", "statsq", "statsq-qkr", "lsq-fixed", "lsq-midrise-identity", "statsq-qkr-released"]
VARIANTS += ["lsq-dampening", "lsq-freezing", "statsq-dampening", "statsq-freezing"]
VARIANTS += ["statsq-cga", "statsq-qkr-cga", "statsq-extra", "statsq-qkr-frozen"]
DROPOUT = "vit_dropout"  # a model that draws random numbers while it trains


def run_of(variant: str, model: str = "vit_micro") -> Run:
    return Run("digits", model, "fp" if variant == "teacher" else "w2a2", variant, 0)


def train(run: Run, keeping: Keeping = KEEPING) -> None:
    """Train a run as ``python -m ofq`` does."""
    configure_logging()
    config = resolve(params.load(), run)
    STEP_OF[config.phase](run, config, keeping)


def write_small_project(root: Path) -> None:
    """``params.yaml`` with variants of the project and short recipes."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["recipes"] = {"digits": RECIPE}
    micro = content["models"]["vit_micro"]
    drop = {"proj_drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_path_rate": 0.1}
    content["models"][DROPOUT] = micro | {"arguments": micro["arguments"] | drop}
    grid = {"models": ["vit_micro", DROPOUT], "bits": ["w2a2"], "seeds": [0], "variants": VARIANTS}
    content["studies"] = {"digits": {"data": {"name": "digits"}, "recipe": "digits"} | grid}
    (root / "params.yaml").write_text(yaml.safe_dump(content))


def shrink_data(study: str, **images: int) -> None:
    """Keep the first images of each split, as many as are named for it."""
    manifest = read_manifest(study)
    stored = {}
    for split, count in images.items():
        content = load_file(data_dir(study) / f"{split}.safetensors")
        first = (content[name][:count].copy() for name in ("images", "labels"))
        stored[split] = store(study, split, *first, classes=manifest.classes)
    write_manifest(study, manifest.model_copy(update={"files": Files(**stored)}))


def prepare_small_data(**images: int) -> None:
    """Parameters and data in the working directory."""
    write_small_project(Path())
    prepare("digits", params.load().studies["digits"].data)
    shrink_data("digits", **images)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parameters and the data."""
    root = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        prepare_small_data(train=64 * EPOCH, eval=32)
    return root


@pytest.fixture(scope="session")
def finished(small_data: Path) -> Path:
    """The same with an undisturbed run of every variant, of either model where it matters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(small_data)
        for variant in ("teacher", *VARIANTS):
            train(run_of(variant))
        for variant in ("teacher", "statsq-qkr"):
            train(run_of(variant, DROPOUT))
    return small_data


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished
