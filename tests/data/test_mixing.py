"""Mixed batches: pairs of neighbours, one draw a step, the same however many processes share the batch."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ofq.config.recipes import TrainingRecipe
from ofq.data.batch import Batch
from ofq.data.mixing import mixed
from ofq.errors import UserError
from ofq.training.losses import distillation_loss

CLASSES = 5
IMAGES = torch.rand(8, 3, 12, 10, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 1])
BATCH = Batch(torch.arange(8), IMAGES, LABELS)
SHARED = 0.1 / CLASSES  # of the smoothed labels


def recipe(**mixing: float) -> TrainingRecipe:
    return TrainingRecipe(lr=1e-3, min_lr=1e-4, batch_size=8, steps=1, **mixing)  # type: ignore[arg-type]


def partners(values: Tensor) -> Tensor:
    return values[[1, 0, 3, 2, 5, 4, 7, 6]]


def smooth(labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels, CLASSES) * 0.9 + SHARED


def own_share(labels: Tensor) -> Tensor:
    """lam of every image whose label differs from its partner's, from the probability of its own label (b,)."""
    return (labels.gather(1, LABELS[:, None])[:, 0] - SHARED) / 0.9


@pytest.mark.parametrize("step", range(5))
def test_mixup_is_the_weighted_mean_of_two_neighbours_and_of_their_labels(step: int) -> None:
    indices, images, labels = mixed(BATCH, recipe(mixup=0.8, smoothing=0.1), CLASSES, f"7/{step}")
    lam = own_share(labels)[0]
    assert 0 < lam < 1 and torch.equal(indices, BATCH.indices)
    torch.testing.assert_close(images, lam * IMAGES + (1 - lam) * partners(IMAGES))
    torch.testing.assert_close(labels, lam * smooth(LABELS) + (1 - lam) * smooth(partners(LABELS)))
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(8))


@pytest.mark.parametrize("step", range(5))
def test_cutmix_takes_one_rectangle_from_the_neighbour_and_weighs_labels_by_its_area(step: int) -> None:
    _, images, labels = mixed(BATCH, recipe(cutmix=1.0, smoothing=0.1), CLASSES, f"7/{step}")
    taken = (images != IMAGES).any(dim=1)  # (b, height, width)
    assert (taken == taken[0]).all() and torch.equal(torch.where(taken[:, None], partners(IMAGES), IMAGES), images)
    rows, columns = taken[0].any(dim=1).sum(), taken[0].any(dim=0).sum()
    assert taken[0].sum() == rows * columns
    lam = 1 - rows * columns / taken[0].numel()
    torch.testing.assert_close(labels, lam * smooth(LABELS) + (1 - lam) * smooth(partners(LABELS)))


def test_with_both_about_half_of_the_steps_have_each() -> None:
    found = [mixed(BATCH, recipe(mixup=0.8, cutmix=1.0), CLASSES, f"0/{step}").images for step in range(100)]
    unmixed_somewhere = sum(bool((images == IMAGES).any() or (images == partners(IMAGES)).all()) for images in found)
    assert 35 < unmixed_somewhere < 65


@pytest.mark.parametrize("mixing", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1}])
def test_processes_that_share_a_batch_mix_it_as_one_does(mixing: dict[str, float]) -> None:
    parts = [Batch(*(each[4 * rank : 4 * rank + 4] for each in BATCH)) for rank in range(2)]
    for step in range(6):
        whole = mixed(BATCH, recipe(**mixing), CLASSES, f"3/{step}")
        shared = [mixed(part, recipe(**mixing), CLASSES, f"3/{step}") for part in parts]
        for one, several in zip(whole, map(torch.cat, zip(*shared, strict=True)), strict=True):
            assert torch.equal(one, several)


def test_what_is_drawn_depends_on_seed_and_step_alone_and_disturbs_no_other_draw() -> None:
    first = mixed(BATCH, recipe(mixup=0.8), CLASSES, "0/1").images
    np.random.seed(3)
    expected = np.random.rand(2)
    np.random.seed(3)
    drawn = [np.random.rand()]
    assert torch.equal(mixed(BATCH, recipe(mixup=0.8), CLASSES, "0/1").images, first)
    drawn.append(np.random.rand())
    assert drawn == list(expected)
    assert not torch.equal(mixed(BATCH, recipe(mixup=0.8), CLASSES, "0/2").images, first)
    assert not torch.equal(mixed(BATCH, recipe(mixup=0.8), CLASSES, "1/1").images, first)


def test_nothing_is_mixed_unless_asked_and_an_image_without_partner_is_one_line() -> None:
    assert mixed(BATCH, recipe(), CLASSES, "0/1") is BATCH
    three = Batch(*(each[:3] for each in BATCH))
    with pytest.raises(UserError, match="3 images of a batch of 8 come to one process, and images are mixed in pairs"):
        mixed(three, recipe(mixup=0.8), CLASSES, "0/1")


def test_the_loss_takes_class_numbers_and_probabilities_alike() -> None:
    logits, taught = torch.randn(8, CLASSES), torch.randn(8, CLASSES)
    sure = torch.nn.functional.one_hot(LABELS, CLASSES).float()
    torch.testing.assert_close(distillation_loss(logits, taught, LABELS), distillation_loss(logits, taught, sure))
    half = (sure + partners(sure)) / 2
    both = [distillation_loss(logits, taught, labels) for labels in (LABELS, partners(LABELS))]
    torch.testing.assert_close(distillation_loss(logits, taught, half), torch.stack(both).mean())
