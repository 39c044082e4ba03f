"""What is written when a run is finished: its weights, its trainer state and log, ``run.json``, ``metrics.json``."""

import datetime
import os
import resource
import time
from typing import Any

from safetensors.torch import save
from torch import nn

from ofq.environment import UNDER_SNAKEMAKE
from ofq.runs import checkpoint, states
from ofq.runs.files import write_bytes, write_json, write_text
from ofq.runs.provenance import git_commit, machine, versions
from ofq.training.job import Session


def publish(
    session: Session, model: nn.Module, metrics: dict[str, float], trainer: dict[str, Any] | None = None
) -> None:
    """Write the run's results, ``metrics.json`` last.

    Args:
        session: of the run.
        model: trained model; its state goes to ``model.safetensors``.
        metrics: deterministic results; seed and steps are added.
        trainer: optimizer and oscillation state from which a later phase continues, if any.
    """
    files = session.run.files
    write_bytes(files.model, save({name: value.contiguous() for name, value in model.state_dict().items()}))
    if trainer is not None:
        checkpoint.write(files.trainer, trainer)
    metrics = {**metrics, "seed": session.run.seed, "steps": session.config.train.steps}
    session.events.append("end", **metrics)
    write_text(files.events, session.events.text())
    write_json(files.info, _info(session))
    write_json(files.metrics, metrics)
    if UNDER_SNAKEMAKE not in os.environ:
        states.drop(session.state.directory)


def _info(session: Session) -> dict[str, Any]:
    return {
        "run": str(session.run),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - session.started, 2),
        "cpu_seconds": round(time.process_time() - session.started_cpu, 2),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "device": "cpu",
        "threads": session.config.threads,
        "machine": machine(),
        "versions": versions(),
        "config": session.config.model_dump(mode="json", exclude_none=True),
        "digests": session.digests,
        "state": session.state.directory.name,
        "rerun_on_code": session.keeping.rerun_on_code,
        "resume_across_code": session.keeping.resume_across_code,
        "history": session.checkpoints.history,
        **({"git": commit} if (commit := git_commit()) else {}),
    }
