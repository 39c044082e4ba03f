"""What ``params.yaml`` may hold, and the settings that it gives one run."""
