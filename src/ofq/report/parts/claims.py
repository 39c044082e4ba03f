"""Verdicts on the papers' claims: ``claims.yaml`` tested on the finished runs of a study."""

from typing import Any

from ofq.config.grid import Grid, all_runs
from ofq.report.claims.forest import forest
from ofq.report.claims.page import Row, page, subject
from ofq.report.claims.pairs import pair
from ofq.report.claims.quantities import Records
from ofq.report.claims.statistics import judge
from ofq.report.claims.terms import load
from ofq.report.style import save
from ofq.runs.files import write_json, write_text


def write_claims(grid: Grid) -> None:
    """Write ``claims.json`` and ``claims.md`` into the study's report.

    A run that is not finished, or was not measured in the way that a claim needs, does not count for that claim.

    Args:
        grid: the study's main grid; claims may use the runs of its groups too.

    Raises:
        UserError: ``claims.yaml`` is missing or wrong; a file of a run is damaged.
    """
    file = load(grid.params)
    claims = file.about(grid)
    records = Records()
    planned = [run for run in all_runs(grid.params, grid.study) if not run.full_precision]
    pairs = [pair(claim, planned, grid.models, records) for claim in claims.values()]
    outcomes = judge(
        [list(one.differences.values()) for one in pairs],
        [(claim.expect, claim.margin) for claim in claims.values()],
    )
    rows = [Row(*row) for row in zip(claims, claims.values(), pairs, outcomes, strict=True)]
    scope = file.scope(grid.study)
    write_json(grid.directory / "claims.json", [_record(row, scope) for row in rows])
    write_text(grid.directory / "claims.md", page(grid, file, rows))
    shown = [row for row in rows if row.claim.headline] or rows
    figure = forest(shown, f"{grid.study} ({scope or 'scope not stated'}): {subject(grid, shown)}")
    save(figure, grid.directory / "figures", "verdicts", [str(run) for row in shown for run in row.pairs.runs])
    untested = [row for row in rows if row.outcome.verdict == "untested"]
    print(f"{len(rows)} claims, {len(untested)} of them untested; written to {grid.directory / 'claims.md'}")
    if not all(row.pairs.lacking for row in untested):
        print(
            f"untested: no seed has all its runs, finished and measured; make them with: snakemake "
            f"{grid.study}-everything"
        )
    for row in untested:
        if row.pairs.lacking:
            print(f"{row.name}: {row.pairs.lacking}")


def _record(row: Row, scope: str | None) -> dict[str, Any]:
    estimate = row.outcome.estimate
    return {
        "id": row.name,
        "statement": row.claim.statement,
        "source": row.claim.source,
        "effect": estimate.effect,
        "unit": row.claim.unit,
        "interval": list(estimate.interval) if estimate.interval else None,
        "n": estimate.n,
        "p_adjusted": row.outcome.p_adjusted,
        "verdict": row.outcome.verdict,
        "runs": [str(run) for run in row.pairs.runs],
        "seeds_to_decide": row.outcome.seeds,
        "by_seed": {str(seed): value for seed, value in row.pairs.differences.items()},
        "by_bits": [
            {"model": model, "bits": bits, "effect": part.effect, "interval": list(part.interval or ()) or None}
            for (model, bits), part in row.parts.items()
        ],
        "widths_disagree": row.disagree,
        "scope": scope,
        "headline": row.claim.headline,
        **({"outside_the_curve": [str(run) for run in row.pairs.outside]} if row.claim.against.curve else {}),
    }
