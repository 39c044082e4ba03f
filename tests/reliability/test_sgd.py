"""Students of SGD, without distillation: their own Adam of the quantizers, an exact resume, annealing that goes on."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ofq.config import params
from ofq.config.recipes import TrainingRecipe
from ofq.data.prepare import prepare
from ofq.quant import QuantConfig, calibrate, quantize_model
from ofq.runs import checkpoint
from ofq.runs.files import read_json
from ofq.training.optim import SeparateOptimizers, make_optimizer
from ofq.training.student import load_teacher, loss_from, make_student
from tests.quant.small import small_model
from tests.reliability.conftest import RECIPE, STEPS, run_of, shrink_data, train, write_small_project
from tests.reliability.test_resume import check_killed
from tests.training.jobs import job_of

SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "min_lr": 0.1, "weight_decay": 1e-3, "batch_size": 64}
KINDS = ("teacher", "lsq", "lsq-held", "lsq-fixed", "lsq-cga")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of each kind."""
    root = tmp_path_factory.mktemp("sgd")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_small_project(Path())
        content = yaml.safe_load(Path("params.yaml").read_text())
        qat = SGD | {"steps": STEPS, "quantizer_lr": 1e-3}
        content["recipes"] = {"digits": RECIPE | {"teacher": SGD | {"steps": STEPS}, "qat": qat, "distillation": False}}
        content["variants"]["lsq-held"] = {"weight": "lsq", "remedy": {"name": "holding"}}
        content["variants"]["lsq-cga"] = {"parent": "lsq", "cga": {"boundary_range": 0.1}}
        content["studies"]["digits"]["variants"] = list(KINDS[1:])
        Path("params.yaml").write_text(yaml.safe_dump(content))
        prepare("digits", params.load().studies["digits"].data)
        shrink_data("digits", train=320, eval=64)
        for kind in KINDS:
            train(run_of(kind))
    return root


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


@pytest.mark.parametrize("kind", ["teacher", "lsq", "lsq-held", "lsq-cga"])
def test_a_run_that_was_killed_ends_as_one_that_was_not(here: Path, kind: str) -> None:
    check_killed(run_of(kind), 3, STEPS - 1)


def test_the_quantizers_have_an_adam_whose_rate_no_schedule_changes(here: Path) -> None:
    for kind, steps in (("lsq", STEPS), ("lsq-cga", 2 * STEPS)):
        both = checkpoint.load(run_of(kind).files.trainer)["optimizer"]
        assert [group["lr"] for group in both["quantizers"]["param_groups"]] == [1e-3]
        assert [group["lr"] for group in both["weights"]["param_groups"]] == [0.1]
        moments = both["quantizers"]["state"].values()
        assert {float(each["step"]) for each in moments} == {steps}, "annealing goes on with its moments"
    settings = read_json(run_of("lsq").files.info)["config"]
    assert settings["distillation"] is False and settings["teacher_once"] is False
    assert settings["train"]["optimizer"] == "sgd" and "momentum" not in settings["train"]


def test_without_distillation_a_student_starts_from_its_teacher_and_asks_it_nothing(here: Path) -> None:
    with job_of(run_of("lsq")) as job:
        teacher, student = load_teacher(job), make_student(job)
        assert all(torch.equal(student.state_dict()[name], each) for name, each in teacher.state_dict().items())
        batch = job.batch(0)
        fixed = torch.zeros(len(batch.images), job.data.classes)
        job.run.teacher.files.logits.rename("aside")
        try:
            loss = loss_from(job, lambda images: fixed)(batch)  # type: ignore[arg-type]
        finally:
            Path("aside").rename(job.run.teacher.files.logits)
        assert loss.item() == pytest.approx(torch.tensor(10.0).log().item())


def test_held_codes_stay_while_all_else_learns(here: Path) -> None:
    run = run_of("lsq-held")
    before, after = load_file(run.teacher.files.model), load_file(run.files.model)
    low = [f"blocks.{i}.{part}.weight" for i in range(2) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    assert all(torch.equal(before[name], after[name]) for name in low)
    assert not any(
        torch.equal(before[name], after[name]) for name in ("head.weight", "fc_norm.weight", "blocks.0.mlp.fc1.bias")
    )
    metrics = read_json(run.files.metrics)
    assert metrics["reversals"] == 0 and read_json(run_of("lsq").files.metrics)["reversals"] > 0
    first = load_file(run_of("lsq-fixed").files.model)  # whose steps do not learn either
    steps = [name for name in after if name.startswith("blocks") and name.endswith("weight_quantizer.scale")]
    assert len(steps) == len(low) and all(torch.equal(first[name], after[name]) for name in steps)


def test_the_first_steps_are_those_of_the_formulas() -> None:
    model = quantize_model(small_model(), QuantConfig(weight="lsq"))
    calibrate(model, torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    optimizer = make_optimizer(model, TrainingRecipe(**SGD, steps=4, quantizer_lr=1e-2))
    assert isinstance(optimizer, SeparateOptimizers)
    learned = dict(model.named_parameters())
    start = {name: each.detach().clone() for name, each in learned.items()}
    for each in learned.values():
        each.grad = torch.full_like(each, 0.5)
    optimizer.step()
    of_quantizers = {name for name in learned if "quantizer" in name}
    assert of_quantizers and of_quantizers != set(learned)
    for name, each in learned.items():
        moved = 1e-2 if name in of_quantizers else 0.1 * (0.5 + 1e-3 * start[name])
        torch.testing.assert_close(each.detach(), start[name] - moved)
    optimizer.zero_grad()
    assert all(each.grad is None for each in learned.values())
