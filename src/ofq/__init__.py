"""Oscillation-free quantization for low-bit vision transformers (OFQ, ICML 2023), reproduced."""
