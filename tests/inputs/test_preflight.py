"""What students would fail of is told before their teacher is trained."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.inputs.conftest import RUN, Refusal

FITS = {"patch_size": 2, "embed_dim": 32, "depth": 1, "num_heads": 2, "class_token": False, "global_pool": "avg"}
SWIN = {"patch_size": 1, "window_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}

MODELS: list[tuple[str, dict[str, Any], str]] = [
    ("vit_tini_patch16_224", {}, "unknown timm model 'vit_tini_patch16_224'; did you mean 'vit_tiny_patch16_224'?"),
    ("hf-hub:timm/vit_tiny_patch16_224", {}, "unknown timm model"),
    ("../model", {}, "unknown timm model"),
    ("vit_tiny_patch16_224.augreg_in21k", FITS, "'augreg_in21k' names weights, as teacher.pretrained of a recipe does; write vit_tiny_patch16_224"),
    ("vit_tiny_patch16_224_in21k", FITS, "unknown timm model 'vit_tiny_patch16_224_in21k'; did you mean "),
    ("vit_tiny_patch16_224", FITS | {"pretrained": True}, "pretrained should be left out: training decides it"),
    ("vit_tiny_patch16_224", FITS | {"cache_dir": "x"}, "cache_dir should be left out: training decides it"),
    ("vit_tiny_patch16_224", FITS | {"no_such": 1}, "unexpected keyword argument 'no_such'"),
    ("vit_tiny_patch16_224", FITS | {"model_name": "x"}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"": 1}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"num_heads": 0}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"num_heads": 5}, "dim should be divisible by num_heads"),
    ("vit_tiny_patch16_224", FITS | {"depth": -1}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"depth": "two"}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"depth": 1.5}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"embed_dim": "wide"}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"embed_dim": 10**12}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"mlp_ratio": -1}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"drop_rate": 7}, "dropout probability has to be between 0 and 1"),
    ("vit_tiny_patch16_224", FITS | {"global_pool": "some"}, "pooling"),
    ("vit_tiny_patch16_224", FITS | {"patch_size": 0}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"patch_size": 3}, "patch_size 3 of vit_tiny_patch16_224 does not divide the images of 8x8 pixels"),
    ("vit_tiny_patch16_224", {}, "patch_size 16 of vit_tiny_patch16_224 does not divide the images of 8x8 pixels"),
    ("vit_tiny_patch16_224", FITS | {"depth": 0}, "is none of these"),
    ("vit_tiny_patch16_224", FITS | {"qk_norm": True}, "cannot be quantized: attention with qk_norm is not supported"),
    ("vit_tiny_patch16_224", FITS | {"dynamic_img_size": True}, "cannot be quantized: dynamic_img_size is not supported"),
    ("vit_tiny_patch16_224", FITS | {"global_pool": "map"}, "cannot be quantized: attention pooling"),
    ("vit_tiny_patch16_224", FITS | {"patch_drop_rate": 0.5}, "cannot be quantized: patch_drop_rate is not supported"),
    ("convnext_atto", {}, "convnext_atto does not take images of 8x8 pixels"),
    ("convnext_atto", {"patch_size": 1}, "convnext_atto cannot be quantized: "),
    ("swin_tiny_patch4_window7_224", SWIN | {"window_size": 0}, "Window sizes must be positive"),
    ("swin_tiny_patch4_window7_224", SWIN | {"window_size": [2, 2, 2]}, "Expected 2 stage window sizes"),
    ("swin_tiny_patch4_window7_224", SWIN | {"window_size": "wide"}, "timm cannot build"),
    ("swin_tiny_patch4_window7_224", SWIN | {"depths": [1, 1, 1]}, "timm cannot build"),
    ("swin_tiny_patch4_window7_224", SWIN | {"depths": [1, 1.5]}, "Input should be a list of whole numbers"),
    ("swin_tiny_patch4_window7_224", SWIN | {"patch_size": 3}, "patch_size 3 of swin_tiny_patch4_window7_224 does not divide"),
    ("swin_tiny_patch4_window7_224", SWIN | {"strict_img_size": False}, "cannot be quantized: dynamic_img_size"),
    ("swinv2_tiny_window8_256", {}, "SwinTransformerV2 is none of these"),
    ("beit_base_patch16_224", {"patch_size": 2}, "Beit is none of these"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "said"), MODELS, ids=lambda value: ascii(value)[:60])
def test_a_model_that_cannot_become_every_student_is_told_before_its_teacher_is_trained(
    copy: Path, refusal: Refusal, name: str, arguments: dict[str, Any], said: str
) -> None:
    _edit(copy, lambda settings: settings["models"].update(vit_micro={"timm": name, "arguments": arguments}))
    assert said in refusal("teacher", "digits/vit_micro/fp/teacher/seed0")
    assert not any((copy / "runs").rglob("checkpoint-*"))


def test_students_of_a_group_are_checked_before_their_teacher_is_trained(copy: Path, refusal: Refusal) -> None:
    def with_a_group(settings: dict[str, Any]) -> None:
        settings["models"]["other"] = {"timm": "vit_tiny_patch16_224", "arguments": FITS | {"qk_norm": True}}
        settings["studies"]["digits"]["groups"] = {"more": {"models": ["other"], "variants": ["statsq"]}}

    _edit(copy, with_a_group)
    said = refusal("teacher", "digits/other/fp/teacher/seed0")
    assert "cannot be quantized: attention with qk_norm is not supported" in said
    assert not any((copy / "runs").rglob("checkpoint-*"))


@pytest.mark.parametrize("step", ["teacher", "qat"])
def test_qkr_on_a_model_without_attention_is_one_line(
    copy: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def without_attention(settings: dict[str, Any]) -> None:
        settings["models"]["vit_micro"] = {"timm": "vit_tiny_patch16_224", "arguments": FITS | {"depth": 0}}
        settings["variants"]["statsq"]["qkr"] = True

    _edit(copy, without_attention)
    monkeypatch.setattr("ofq.training.student.load_weights", lambda model, path: None)  # the teacher has attention
    said = refusal(step, "digits/vit_micro/fp/teacher/seed0" if step == "teacher" else RUN)
    assert said.startswith("vit_tiny_patch16_224 cannot be quantized: ") and "is none of these" in said


@pytest.mark.parametrize("phase", ["teacher", "qat"])
def test_a_batch_larger_than_the_data_is_told_before_anything_is_trained(
    copy: Path, refusal: Refusal, phase: str
) -> None:
    _edit(copy, lambda settings: settings["recipes"]["digits"][phase].update(batch_size=13_201))
    said = refusal("teacher", "digits/vit_micro/fp/teacher/seed0")
    assert said.startswith(f"batch_size 13201 of {phase} is larger than the 13200 training images of digits; lower it")
    assert not any((copy / "runs").rglob("checkpoint-*"))


def _edit(root: Path, change: Any) -> None:
    settings = yaml.safe_load((root / "params.yaml").read_text())
    change(settings)
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
