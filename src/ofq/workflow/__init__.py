"""What Snakemake and DVC ask, and what tends a project as a whole."""
