"""A drill: kill a short study again and again, and show that its results are those of an undisturbed one.

The workflow is copied twice. One copy runs undisturbed; in the other, trainers, their callers, the warm process and
Snakemake are killed at random moments with random signals, and plain ``snakemake`` is started again. At the end every
deterministic file must be the same in both. Nothing here repairs anything: no state is touched, no lock removed, no
comparison repeated. The choices (what, when, by which signal) come from a seed; where exactly they meet the study
depends on the machine too.
"""
