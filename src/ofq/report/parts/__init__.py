"""Tables and figures, a part of the report each."""
