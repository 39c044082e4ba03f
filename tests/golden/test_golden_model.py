"""A whole tiny distilled vision transformer against the fixtures: timm's model, converted."""

import re

import pytest
import torch
from cases import Case, cases, close, weight_and_input_bits
from names import gradient, load
from timm.models import VisionTransformerDistilled

from ofq.quant import QuantConfig, calibrate, quantize_model
from ofq.training.losses import distillation_loss

HEADS = 3  # section 9; only the files with query-key reparameterization show it


def _model(case: Case) -> VisionTransformerDistilled:
    _, kind, bits = case.file.split("_")
    weight_bits, input_bits = weight_and_input_bits(bits)
    width, channels, patch, _ = case["param/patch_embed.proj.weight"].shape
    names = case.below("param")
    blocks = {match[1] for name in names if (match := re.match(r"blocks\.(\d+)\.", name))}
    heads = HEADS
    if kind == "qkr":
        steps = case["param/blocks.0.attn.quan_a_qkx_fn.s"].numel()
        heads = steps // case["param/pos_embed"].shape[1]
    model = VisionTransformerDistilled(
        img_size=tuple(case["x"].shape[2:]),
        patch_size=patch,
        in_chans=channels,
        num_classes=case["param/head.weight"].shape[0],
        embed_dim=width,
        depth=len(blocks),
        num_heads=heads,
        mlp_ratio=case["param/blocks.0.mlp.fc1.weight"].shape[0] / width,
    )
    config = QuantConfig(
        weight="lsq" if kind == "lsq" else "statsq",
        weight_bits=weight_bits,
        input_bits=input_bits,
        qkr=kind == "qkr",
        dead_biases=True,
    )
    quantize_model(model, config)
    load(case, model, lambda: calibrate(model, [case["x"]]))
    model.set_distilled_training(True)
    return model.train()


def _loss(case: Case, model: VisionTransformerDistilled) -> torch.Tensor:
    return distillation_loss(model(case["x"]), case["teacher_logits"], case["label"])


def _train(case: Case, model: VisionTransformerDistilled, schedule: str) -> torch.Tensor:
    """Losses before and after each AdamW step on the one batch."""
    lr, weight_decay, beta1, beta2, eps = case[f"{schedule}/hyper"].tolist()
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        token = name in ("cls_token", "dist_token", "pos_embed")
        (plain if token or parameter.ndim < 2 else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps)
    losses = []
    for _ in range(case[f"{schedule}/loss"].numel()):
        loss = _loss(case, model)
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.stack(losses)


@pytest.mark.parametrize("case", cases("deit_*", ""), ids=str)
def test_model(case: Case) -> None:
    model = _model(case)
    flag = model.get_buffer("patch_embed.proj.input_quantizer.negative_seen")
    close(flag.view(1), case["buffer/patch_embed.proj.input_quant_fn.signed"])

    classes, distillation = model(case["x"])
    close(classes, case["logits_cls"], what="logits_cls")
    close(distillation, case["logits_dist"], what="logits_dist")
    with torch.no_grad():
        close(model.eval()(case["x"]), case["logits_eval"], what="logits_eval")
    loss = _loss(case, model.train())
    close(loss, case["loss"], what="loss")

    loss.backward()
    for name in case.below("grad"):
        expected = case[f"grad/{name}"]
        close(gradient(model, name, expected.shape), expected, gradient=True, what=f"grad/{name}")
    names = [str(name) for name in case.numpy("gradnorm_names")]
    assert set(names) == set(case.below("param"))
    norms = [gradient(model, name, case[f"param/{name}"].shape).norm() for name in names]
    close(torch.stack(norms), case["gradnorm"], gradient=True, what="gradnorm")

    for schedule in sorted({name.split("/")[0] for name in case.below("") if name.startswith("adamw_")}):
        losses = _train(case, _model(case), schedule)
        reliable = int(case[f"{schedule}/reliable_losses"])
        expected = case[f"{schedule}/loss"]
        if schedule.endswith("1e-4"):
            assert reliable == len(expected)
        torch.testing.assert_close(losses[:reliable], expected[:reliable], atol=1e-4, rtol=0)
