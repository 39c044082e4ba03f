"""The data sets of the package: one file each, found by the names under which their readers are registered."""
