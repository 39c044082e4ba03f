"""Oscillation: the meter, the recorder of a run, and observers of what oscillating weights have in common."""

from typing import TYPE_CHECKING

from ofq import lazy_names

if TYPE_CHECKING:
    from ofq.oscillation.meter import OscillationMeter

__all__ = [
    "OscillationMeter",
]

__getattr__ = lazy_names(
    {
        "OscillationMeter": "ofq.oscillation.meter",
    }
)
