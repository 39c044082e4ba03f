"""Oscillation: the meter, the recorder of a run, and observers of what oscillating weights have in common."""

from typing import TYPE_CHECKING

from ofq import lazy_names

if TYPE_CHECKING:
    from ofq.oscillation.meter import OscillationMeter as OscillationMeter

__getattr__, __all__ = lazy_names(__file__)
