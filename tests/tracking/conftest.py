"""A project with an empty store, for each test."""

from tests.tracking.mirrored import empty_store, project, root

__all__ = ["empty_store", "project", "root"]
