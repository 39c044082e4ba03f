"""Layers and attention that quantize their weights and inputs."""
