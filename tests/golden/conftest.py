"""Every test that takes a ``case`` must read each array that the case owns."""

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)  # the matrices are tiny, and sums have one order


@pytest.fixture(autouse=True)
def reads_every_array_of_its_case(request: pytest.FixtureRequest) -> Iterator[None]:
    case = getattr(request.node, "callspec", None) and request.node.callspec.params.get("case")
    if case is None:
        yield
        return
    case.read.clear()
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed == failed:  # what failed on the way did not get to the rest
        unread = sorted(case.owned - case.read)
        assert not unread, f"{case} has arrays that the test does not look at: {unread}"
