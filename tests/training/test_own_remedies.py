"""What a remedy of a user's does to a run: what it should not, in one line; what it may, as it says."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ofq.config import params
from ofq.config.resolve import Keeping, QatConfig, resolve
from ofq.config.settings import RemedySettings
from ofq.errors import UserError
from ofq.models.weights import load_weights
from ofq.runs import checkpoint
from ofq.runs.files import read_json
from ofq.training.continued import last_state
from ofq.training.loop import evaluate
from ofq.training.qat import run_qat
from ofq.training.student import make_student
from tests.training.jobs import job_of
from tests.training.trained import STATSQ, step_events

STUBBORN = """
import torch
from ofq.remedies import Remedy

class Stubborn(Remedy):
    def __init__(self, model, steps):
        self.first = {}

    def round_with(self, quantizer, u, step):
        return self.first.setdefault(quantizer, torch.clamp(u.round(), *quantizer.levels()))
"""


def test_codes_that_a_remedy_holds_do_not_oscillate(here: params.Params) -> None:
    lsq = STATSQ.sibling("lsq")
    assert read_json(lsq.files.metrics)["reversals"] > 0
    Path("stubborn.py").write_text(STUBBORN)
    config, held = resolve(here, lsq), lsq.sibling("stubborn")
    run_qat(held, config.model_copy(update={"remedy": RemedySettings(name="stubborn:Stubborn")}))
    metrics = read_json(held.files.metrics)
    assert metrics["reversals"] == metrics["osc_share"] == 0
    assert metrics["loss"] != read_json(lsq.files.metrics)["loss"]


SLIPS = {
    "metrics": [
        ('{"calm/x": float("nan")}', "metrics() of Slip returned nan as calm/x at step 2; it should be finite"),
        ('{"calm/x": 1.0, "calm/y": -float("inf")}', "metrics() of Slip returned -inf as calm/y at step 2"),
        (
            '{"calm/x": torch.ones(())}',
            "metrics() of Slip returned a Tensor as calm/x at step 2; it should be a number",
        ),
        ('{"calm/x": "much"}', "metrics() of Slip returned a str as calm/x at step 2"),
        ('{"calm/x": None}', "metrics() of Slip returned a NoneType as calm/x at step 2"),
        ('{"calm/x": True}', "metrics() of Slip returned a bool as calm/x at step 2"),
        ("None", "metrics() of Slip returned a NoneType at step 2; it should be numbers by name"),
        ("[0.5]", "metrics() of Slip returned a list at step 2"),
        ('{"val/top1": 99.0}', "metrics() of Slip returned val/top1 at step 2, which has another meaning"),
        ('{"osc/share": 0.0}', "metrics() of Slip returned osc/share at step 2, which has another meaning"),
        ('{"step": 7}', "metrics() of Slip returned step at step 2, which has another meaning"),
        ('{"event": 7}', "metrics() of Slip returned event at step 2"),
        ('{"calm/%": 7}', "metrics() of Slip returned the name 'calm/%' at step 2; it should be group/name"),
        ("{3: 7}", "metrics() of Slip returned the name 3 at step 2"),
    ],
    "loss": [
        ('self.weight.sum() * float("nan")', "loss() of Slip returned nan at step 1; it should be finite"),
        ('self.weight.sum().abs() * float("inf")', "loss() of Slip returned inf at step 1"),
    ],
    "state_dict": [
        ('{"f": lambda: 0}', "state_dict() of Slip returned an entry ['f'] of type function; it should hold tensors"),
        ('{"a": [1, {"b": self}]}', "state_dict() of Slip returned an entry ['a'][1]['b'] of type Slip"),
        ('{"a": numpy.float64(1)}', "state_dict() of Slip returned an entry ['a'] of type float64"),
        ("None", "state_dict() of Slip returned a NoneType"),
        ('{"a": torch.ones(2)}', "Slip has a state_dict() and no load_state_dict(state)"),
    ],
}


@pytest.mark.parametrize(
    ("method", "returned", "message"), [(method, *case) for method, cases in SLIPS.items() for case in cases]
)
def test_what_a_remedy_should_not_return_is_one_line(
    here: params.Params, method: str, returned: str, message: str
) -> None:
    name = f"slip_{hashlib.sha256((method + returned).encode()).hexdigest()[:8]}"
    Path(f"{name}.py").write_text(
        "import numpy, torch\nfrom ofq.remedies import Remedy, governed_layers\n\n"
        "class Slip(Remedy):\n    def __init__(self, model, steps):\n"
        "        self.weight = next(iter(governed_layers(model).values())).weight\n\n"
        f"    def {method}(self):\n        return {returned}\n"
    )
    with pytest.raises(UserError) as caught:
        run_qat(STATSQ.sibling(name), with_remedy(here, f"{name}:Slip"))
    assert message in str(caught.value)


def with_remedy(loaded: params.Params, name: str, **arguments: bool) -> QatConfig:
    config = resolve(loaded, STATSQ)
    assert isinstance(config, QatConfig)
    return config.model_copy(update={"remedy": RemedySettings(name=name, arguments=arguments)})


COUNTING = """
import numpy
from ofq.remedies import Remedy

class Counting(Remedy):
    def __init__(self, model, steps, *, ends: bool):
        self.calls, self.ends = 0, ends

    def metrics(self):
        self.calls += 1
        last = float("nan") if self.ends and self.calls == 3 else numpy.float32(0.5)
        return {"good/whole": numpy.int64(3), "good/half": last, "good": 1}

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        raise KeyError("old")
"""


def test_numbers_of_numpy_are_numbers_and_a_state_that_does_not_fit_is_one_line(here: params.Params) -> None:
    Path("counting.py").write_text(COUNTING)
    run, broken = STATSQ.sibling("counting"), STATSQ.sibling("broken")
    run_qat(run, with_remedy(here, "counting:Counting", ends=False))
    last = step_events(run)[-1]
    assert (last["good/whole"], last["good/half"], last["good"]) == (3, 0.5, 1)
    for message in ("nan as good/half at step 6", r"load_state_dict\(\) of Counting does not take .*KeyError: 'old'"):
        with pytest.raises(UserError, match=message):
            run_qat(broken, with_remedy(here, "counting:Counting", ends=True), Keeping(checkpoint_seconds=0))


SINKING = """
import torch
from ofq.remedies import Remedy

class Sinking(Remedy):
    def __init__(self, model, steps):
        self.layer = model.blocks[0].mlp.fc1
        self.others = model.blocks[0].mlp.fc2, model.blocks[0].attn.proj

    @torch.no_grad()
    def after_update(self, lr):
        self.layer.weight_quantizer.scale[:16] = -0.01
        self.layer.input_quantizer.scale[3] = 0.0
        for layer in self.others:
            layer.weight_quantizer.scale[0] = 0.0
"""


def test_steps_below_their_floor_are_told_and_files_hold_what_acts(
    here: params.Params, caplog: pytest.LogCaptureFixture
) -> None:
    """The model's file computes what the run measured; annealing goes on from what the optimizer moved."""
    lsq, run = STATSQ.sibling("lsq"), STATSQ.sibling("sinking")
    config = resolve(here, lsq)
    Path("sinking.py").write_text(SINKING)
    run_qat(run, config.model_copy(update={"remedy": RemedySettings(name="sinking:Sinking")}))
    weight, put_in = "blocks.0.mlp.fc1.weight_quantizer.scale", "blocks.0.mlp.fc1.input_quantizer.scale"
    told = [record.getMessage() for record in caplog.records if "ended below 1e-05" in record.getMessage()]
    noted = read_json(run.files.info)["steps_below_floor"]
    low = {name: share for name, share in noted.items() if share}
    assert len(told) == 1 and f": 25.0 % of {weight}, 6.2 % of {put_in}, " in told[0] and " and 1 more; " in told[0]
    assert len(low) == 4 and (low[weight], low[put_in]) == (0.25, 1 / 16)
    published = load_file(run.files.model)
    floor = torch.tensor(1e-5)
    assert (published[weight][:16] == floor).all() and (published[weight][16:] > floor).all()
    assert published[put_in][3] == floor
    with job_of(run, config) as job:
        student = make_student(job)
        load_weights(student, run.files.model)
        assert evaluate(student, job.data)[1] == read_json(run.files.metrics)["loss"]
        continued = last_state(job, run)[0]
        assert (continued.get_parameter(weight)[:16] == torch.tensor(-0.01)).all()
        assert continued.get_parameter(put_in)[3] == 0
        assert evaluate(continued, job.data)[1] == read_json(run.files.metrics)["loss"]
    steps = checkpoint.load(run.files.trainer)["steps"]
    assert steps.keys() == noted.keys() == {name for name in published if name.endswith("scale")}
    assert all(torch.equal(published[name], scale.clamp_min(1e-5)) for name, scale in steps.items())
