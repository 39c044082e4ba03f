"""The quantizers, a file each."""
