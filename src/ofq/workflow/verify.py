"""Compare the files of finished runs with the digests that the runs published."""

from ofq.config.params import Params
from ofq.errors import UserError
from ofq.runs.paths import RESULTS, Run
from ofq.runs.published import problems


def verify(params: Params, study: str | None) -> None:
    """Verify every finished run of one study or of all, and print a line for each run and each problem.

    Raises:
        UserError: a problem was found, or there is no run.
    """
    if study is not None:
        params.study_named(study)
    found = RESULTS.glob(f"{study or '*'}/*/*/*/seed*/metrics.json")
    runs = sorted(run for path in found if (run := Run.parse(str(path))))
    if not runs:
        raise UserError(f"there are no runs{f' of study {study}' if study else ''} yet; make some with: snakemake")
    bad = 0
    for run in runs:
        try:
            wrong = problems(run.files.root)
        except UserError as error:
            wrong = [error]
        bad += len(wrong or ())
        if wrong is None:
            print(f"unknown {run}  not verified: run.json has no digests of its files, as of an earlier version")
        for line in wrong or ():
            print(f"bad     {line}")
        if wrong == []:
            print(f"ok      {run}")
    if bad:
        found_bad = f"{bad} problem{'s' if bad > 1 else ''} in the runs"
        raise UserError(f"{found_bad}, each in a line above; delete what is named and run snakemake again")
