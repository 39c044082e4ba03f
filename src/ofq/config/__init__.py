"""What ``params.yaml`` may say, and what it comes to for one run."""
