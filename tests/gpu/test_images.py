"""Batches that are made on a card are those of the processor, to the last bit."""

import pytest
import torch

from ofq.config.recipes import UNCHANGED, Augmentation
from tests.data.test_augment import ALL, placed, some

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")


@pytest.mark.parametrize("augment", [UNCHANGED, ALL], ids=["plain", "augmented"])
def test_a_batch_of_a_card_is_that_of_the_processor(augment: Augmentation) -> None:
    here = some(augment, count=512)
    there = placed(here, "cuda")
    pairs = [(here.train(0, step, 64), there.train(0, step, 64)) for step in range(20)]
    chosen = torch.arange(0, 512, 3)
    for one, other in ((here, there), (here.of_training(chosen), there.of_training(chosen))):
        pairs += zip(one.evaluation(), other.evaluation(), strict=True)
    for before, after in pairs:
        for expected, found in zip(before, after, strict=True):
            assert found.is_cuda and torch.equal(found.cpu(), expected)
