"""The environment variables of this project."""

UNDER_SNAKEMAKE = "OFQ_UNDER_SNAKEMAKE"
"""Set for jobs of Snakemake, which deletes what a job wrote if the job is killed before it is known to have ended well:
their states stay until Snakemake is done."""

RESUME_ACROSS_CODE = "OFQ_RESUME_ACROSS_CODE"
""""1" is --resume-across-code for every job of a study."""

WARM_SOCKET = "OFQ_WARM_SOCKET"
"""Leads a job to the warm process."""
