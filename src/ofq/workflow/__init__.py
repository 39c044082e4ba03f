"""Answers to Snakemake and DVC, and the commands that concern a project as a whole."""
