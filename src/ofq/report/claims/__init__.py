"""The papers' claims: their terms, the runs that they compare, and a verdict on each."""
