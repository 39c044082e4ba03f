"""The tables and figures of the report, part by part."""
