"""MLflow as a mirror of the event logs: training writes the logs, and one process at a time copies them."""
