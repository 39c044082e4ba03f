"""What oscillating weights do to the statistics of batch norms, and what these cost."""
