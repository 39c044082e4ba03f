"""Published ImageNet numbers that stand beside ours."""

SOURCE = "OFQ, README of the authors' released code (Table 2 of the paper)"

# model: {bits: {variant: top-1 in percent}}; combinations that were not published are left out
TOP1: dict[str, dict[str, dict[str, float]]] = {
    "deit_tiny": {
        "w2a2": {"statsq-qkr-cga": 64.33},
        "w3a3": {"statsq-qkr-cga": 72.72},
        "w4a4": {"statsq-qkr-cga": 75.46},
    },
    "deit_small": {
        "w2a2": {"statsq-qkr-cga": 75.72},
        "w3a3": {"statsq-qkr-cga": 79.57},
        "w4a4": {"statsq-qkr-cga": 81.10},
    },
    "swin_tiny": {
        "w2a2": {"statsq-qkr-cga": 78.52},
        "w3a3": {"statsq-qkr-cga": 81.09},
        "w4a4": {"statsq-qkr-cga": 81.88},
    },
}


def paper_top1(paper_model: str | None, bits: str, variant: str) -> float | None:
    """Published top-1 in percent, or None where none is published."""
    return TOP1.get(paper_model or "", {}).get(bits, {}).get(variant)
