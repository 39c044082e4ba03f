"""A model one can take home: integers instead of latent weights, packed files, ONNX, a hub folder."""
