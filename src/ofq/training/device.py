"""Where a run computes: the processor by default, in float32, as written."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ofq.config.settings import PROCESSOR, Hardware
from ofq.errors import UserError
from ofq.runs import locks
from ofq.runs.provenance import driver, version

_log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_REPRODUCIBLE = (":4096:8", ":16:8")  # workspaces with which cuBLAS sums in one order
_AROUND_BLOCKS = ("patch_embed", "head", "head_dist")  # what timm's vision transformers call them
MIB = 2**20


@dataclass(frozen=True)
class Device:
    """The device of a run.

    Attributes:
        where: torch's name of it.
        precision: of the products of training: tf32 rounds their factors, bf16 is automatic mixed precision. Weights
            and their updates are float32 in any case.
        compiled: whether torch compiles the model for training.
    """

    where: str = "cpu"
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    compiled: bool = False

    @property
    def name(self) -> str:
        """What it is called in run.json."""
        return self.where if self.where == "cpu" else str(torch.get_device_module(self.where).get_device_name())

    @property
    def memory_mib(self) -> int:
        """The most memory of a card that this process has taken so far; 0 on the processor."""
        if self.where == "cpu":
            return 0
        return round(torch.get_device_module(self.where).max_memory_reserved() / MIB)

    def described(self) -> dict[str, Any]:
        """Return the entry ``hardware`` of what is measured or trained here; none for the processor as it is."""
        if self == CPU:
            return {}
        # An operation that has no such kernel ends the run.
        deterministic = torch.are_deterministic_algorithms_enabled()
        found = {
            "device": self.name,
            "precision": self.precision,
            "compiled": self.compiled,
            "deterministic": deterministic,
        }
        if self.where != "cpu":
            cudnn = torch.backends.cudnn.version()
            found |= {"driver": driver(), "cuda": torch.version.cuda, "cudnn": cudnn, "triton": version("triton")}
        return {"hardware": found}

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Let this process compute here: one order of every sum, and products in the precision of training.

        Raises:
            RuntimeError: an operation that follows has no kernel that sums in one order; names it.
        """
        if self.where != "cpu":
            _order_sums()
        torch.use_deterministic_algorithms(True)
        # A debugging aid that would cost a tenth of a small step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        if self.compiled:
            from torch._inductor import config

            config.deterministic = True  # otherwise kernels are chosen by their speed, and with them the order of sums
        with _tf32(self.precision == "tf32") if self.where != "cpu" else nullcontext():
            yield

    @contextmanager
    def shared(self, runs: int, label: str) -> Iterator[None]:
        """Hold a place on one of this machine's cards as :meth:`cards` does, and compute on that card."""
        with self.cards(1, runs, label) as numbers:
            for number in numbers:
                torch.get_device_module(self.where).set_device(number)
            yield

    @contextmanager
    def numbered(self, number: int) -> Iterator[None]:
        """Compute on the card of that number, if this is a card."""
        if self.where != "cpu":
            torch.get_device_module(self.where).set_device(number)
        yield

    @contextmanager
    def cards(self, count: int, runs: int, label: str) -> Iterator[list[int]]:
        """Hold places on so many of this machine's cards, each of which has some; wait for them; yield their numbers.

        On the processor there are none, and nothing is held. Cards are those that ``CUDA_VISIBLE_DEVICES`` leaves.
        First every card gets one run, then each a second one. A place goes with this process, however it ends, and is
        known to every project of this user on this machine.

        Args:
            count: of cards; more than one only where a card has one place.
            runs: places of a card.
            label: names the run where it waits.

        Raises:
            UserError: there are fewer cards.
        """
        if self.where == "cpu":
            yield []
            return
        module = torch.get_device_module(self.where)
        cards = list(range(module.device_count()))
        if count > len(cards):
            raise UserError(
                f"{label} takes {count} cards, and there are {len(cards)} here; lower hardware.devices in params.yaml, "
                "or see docs/gpu.md for several machines"
            )
        names = [str(module.get_device_properties(card).uuid) for card in cards]
        folder = Path(tempfile.gettempdir()) / f"ofq-cards-{os.getuid()}"
        places = [folder / f"{name}-{place}.lock" for place in range(runs) for name in names]

        def wait(holder: str) -> None:
            _log.info(
                "%s: waits for %d of %d places on cards; the first is taken by %s", label, count, len(places), holder
            )

        with locks.some_of(places, count, waiting=wait) as taken:
            yield [cards[place % len(cards)] for place in taken]

    def place(self, model: Model) -> Model:
        """Move a model here, in place; if asked for, its parts are compiled when they are first called.

        Parts are the patch embedding, each block, and the heads. Blocks are alike, so that one compilation serves all
        of them. A model without ``blocks`` is compiled whole.
        """
        model.to(self.where)
        if self.compiled:
            blocks = getattr(model, "blocks", None)
            parts: list[nn.Module] = [model]
            if isinstance(blocks, nn.ModuleList | nn.Sequential):
                parts = [*blocks, *(part for name, part in model.named_children() if name in _AROUND_BLOCKS)]
            for part in parts:
                part.compile()
        return model

    def move_state(self, state: Any) -> Any:
        """Return a state of tensors and plain values, as a checkpoint holds it, with its tensors here."""
        if isinstance(state, dict):
            return {name: self.move_state(value) for name, value in state.items()}
        if type(state) in (list, tuple):
            return type(state)(map(self.move_state, state))
        return state.to(self.where) if isinstance(state, Tensor) else state

    def forward(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass of training, and of its loss."""
        return torch.autocast(self.where, dtype=torch.bfloat16) if self.precision == "bf16" else nullcontext()

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Compute in float32 as written, whatever trained: no autocast, no tf32, nothing compiled."""
        with ExitStack() as stack:
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(self.where, enabled=False))
            if self.where != "cpu":
                stack.enter_context(_tf32(False))
            if self.compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield

    def random_states(self) -> dict[str, Tensor]:
        """Return the states of the random numbers that training draws, as entries of a checkpoint."""
        states = {"rng": torch.get_rng_state()}
        if self.where != "cpu":
            states["rng_device"] = torch.get_device_module(self.where).get_rng_state()
        return states

    def restore_random(self, states: dict[str, Any]) -> None:
        """Restore what :meth:`random_states` returned; a state of another kind of device is left out."""
        torch.set_rng_state(states["rng"])
        if self.where != "cpu" and "rng_device" in states:
            torch.get_device_module(self.where).set_rng_state(states["rng_device"])


CPU = Device()


def device_of(hardware: Hardware) -> Device:
    """Return the device that a run's settings name.

    Raises:
        UserError: it is a card, and this process finds none; says why.
    """
    if hardware.device != "cpu":
        _order_sums()
        try:
            torch.get_device_module(hardware.device).init()
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition(". ")[0].splitlines()[0]
            raise UserError(
                f"the study's hardware is {hardware.device}, and there is no card to be found ({reason}); run it where "
                "there is one (nvidia-smi lists it), or set hardware.device: cpu in params.yaml"
            ) from None
    return Device(hardware.device, hardware.precision, hardware.compile)


def hardware_to_measure(hardware: Hardware) -> Hardware:
    """Return where to measure a finished run: in float32, on a card if it was trained on one and one is here.

    :func:`tell_where` tells it.
    """
    if hardware.device == PROCESSOR.device:
        return PROCESSOR
    card = Hardware(device=hardware.device)
    try:
        device_of(card)
    except UserError:
        return PROCESSOR
    return card


def tell_where(hardware: Hardware, device: Device) -> None:
    """Warn where a run that a card trained is measured on the processor."""
    if device.where != hardware.device:
        _log.warning("the run was trained on %s, and there is none here: measured on the processor", hardware.device)


def _order_sums() -> None:
    """Let cuBLAS, which reads this when it starts, sum in one order."""
    if os.environ.get(_CUBLAS) not in _REPRODUCIBLE:
        os.environ[_CUBLAS] = _REPRODUCIBLE[0]


@contextmanager
def _tf32(on: bool) -> Iterator[None]:
    """Let a card round the factors of float32 products to tf32, or not; as before afterwards."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = on
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
