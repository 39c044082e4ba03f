"""MLflow as a mirror of the event logs: training writes the logs, and one process at a time copies them."""

from ofq.tracking.mirror import follow, stamp, track, warnings

__all__ = ["follow", "stamp", "track", "warnings"]
