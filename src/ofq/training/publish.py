"""What is written when a run is finished: its weights, its trainer state and log, ``run.json``, ``metrics.json``."""

import datetime
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ofq.config.resolve import RunConfig
from ofq.environment import UNDER_SNAKEMAKE
from ofq.runs import checkpoint, states
from ofq.runs.files import as_json, write_bytes, write_json, write_text
from ofq.runs.provenance import machine, versions
from ofq.runs.published import digest_of, digests_of
from ofq.training.job import Job


def publish(
    job: Job[RunConfig],
    weights: dict[str, Tensor],
    metrics: dict[str, float],
    records: Sequence[Path],
    trainer: dict[str, Any] | None = None,
    noted: dict[str, Any] | None = None,
) -> None:
    """Write the run's results, ``metrics.json`` last.

    Args:
        job: the run.
        weights: state of the trained model, for ``model.safetensors``.
        metrics: deterministic results; seed and steps are added.
        records: further files of the run, already written.
        trainer: optimizer, oscillation state and learned steps from which a later phase continues, if any.
        noted: entries for ``run.json``, beside those of every run.
    """
    files = job.run.files
    content = {name: value.contiguous() for name, value in weights.items()}
    write_bytes(files.model, save(content, {"format": "pt"}))  # which other loaders ask for
    if trainer is not None:
        checkpoint.write(files.trainer, trainer)
    metrics = {**metrics, "seed": job.run.seed, "steps": job.recipe.length if job.config.train else 0}
    job.events.append("end", **metrics)
    write_text(files.events, job.events.text())
    written = [files.model, files.events, *records, *([files.trainer] if trainer is not None else [])]
    outputs = {**digests_of(written), files.metrics.name: digest_of(as_json(metrics))}
    write_json(files.info, _info(job, outputs) | (noted or {}))
    write_json(files.metrics, metrics)
    if UNDER_SNAKEMAKE not in os.environ:
        states.drop(job.state.directory)


def _info(job: Job[RunConfig], outputs: dict[str, str]) -> dict[str, Any]:
    seconds = time.monotonic() - job.started[0]
    cards = job.rank.count / job.keeping.runs_per_gpu
    card = {"gpu_seconds": round(seconds * cards, 2), "gpu_memory_mib": job.device.memory_mib}
    divided = job.config.train is not None and job.parts > 1
    return {
        "run": str(job.run),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(time.process_time() - job.started[1], 2),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        **(card if job.device.where != "cpu" else {}),
        "device": job.device.name,
        **job.device.described(),
        **({"devices": job.rank.count} if job.rank.count > 1 else {}),
        **({"images_at_once": job.recipe.batch_size // (job.rank.count * job.parts)} if divided else {}),
        "threads": job.config.threads,
        "machine": machine(),
        "versions": versions(),
        "config": job.config.shown(),
        "digests": {**job.digests, "outputs": outputs},
        "state": job.state.directory.name,
        "rerun_on_code": job.keeping.rerun_on_code,
        "resume_across_code": job.keeping.resume_across_code,
        "history": job.checkpoints.history,
        **({"resumed_after": job.checkpoints.first} if job.checkpoints.first else {}),
        **job.git,
    }
