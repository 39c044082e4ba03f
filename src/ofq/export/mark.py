"""What the head of a packed file says without the rest being read: its digest, and the weights that it was made of."""

import json
from pathlib import Path

from ofq.errors import UserError, shortened
from ofq.runs.provenance import file_digest

HEADER, DIGEST = "ofq", "ofq.sha256"
"""Entries of a packed file's metadata: the header, and the digest of header and tensors."""


def digest_if_of(weights: Path, packed: Path) -> str | None:
    """Return the digest of a packed file that was made of these weights; None if there is none, or it is of others.

    Raises:
        UserError: its head is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(packed, "np") as file:
            metadata = file.metadata()
        made_of = json.loads(metadata[HEADER])["digests"]["weights"]
        return str(metadata[DIGEST]) if made_of == file_digest(weights) else None
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{packed} is damaged ({shortened(str(error), 120)}); export the run again") from None
