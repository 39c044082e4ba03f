"""Data sets: read from their source once, verified, stored with a manifest, served as batches."""

from typing import TYPE_CHECKING

from ofq import lazy_names

if TYPE_CHECKING:
    from ofq.data.packed import members
    from ofq.data.reader import Reader, Source

__all__ = [
    "Reader",
    "Source",
    "members",
]

__getattr__ = lazy_names(
    {
        "members": "ofq.data.packed",
        "Reader": "ofq.data.reader",
        "Source": "ofq.data.reader",
    }
)
