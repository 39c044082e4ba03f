"""The backbones, in full precision."""
