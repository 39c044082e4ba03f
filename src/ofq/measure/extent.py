"""How much is measured of a finished run: steps, draws and images, which planning counts without torch."""

WINDOW = 300
"""Steps of the further window that `probe` trains."""
TRIALS = 10
"""Draws of `noise` for each place and range."""
RANGES = (0.01, 0.05)  # code steps
PLACES = ("boundary", "random")
TRAIN_IMAGES = 600
"""Training images on which `noise` evaluates each draw, beside the evaluation images."""
