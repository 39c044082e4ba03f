"""What a study and its groups cost."""

from ofq.config.grid import all_runs
from ofq.runs.files import write_json
from ofq.workflow.cost import summary, table
from tests.report.conftest import Made


def test_costs_stand_by_step_and_by_grid_and_a_run_of_two_grids_counts_as_the_main_ones(made: Made) -> None:
    groups = {"more": {"variants": ["lsq", "statsq"], "seeds": [0, 1]}}
    params = made(variants=["lsq"], seeds=[0], groups=groups, measure=[])
    assert table(params, "digits") == "No run of study digits is finished."
    for run in all_runs(params, "digits"):
        write_json(run.files.info, {"cpu_seconds": 10.0 + run.seed, "peak_memory_mib": 100})
        write_json(run.teacher.files.info, {"cpu_seconds": 20.0, "peak_memory_mib": 300})
    lines = table(params, "digits").splitlines()
    assert "| teacher | 2 | 20.0 | 300 |" in lines and "| lsq | 2 | 10.5 | 100 |" in lines
    assert "| digits | 2 | 30 | 0 | 0 |" in lines
    assert "| more | 6 | 82 | 4 | 52 |" in lines


def test_time_on_cards_stands_beside_that_of_processors_where_there_was_any(made: Made) -> None:
    params = made(variants=["lsq"], seeds=[0], groups={"more": {"variants": ["statsq"], "seeds": [0]}}, measure=[])
    runs = all_runs(params, "digits")
    spent = {"cpu_seconds": 10.0, "peak_memory_mib": 100, "gpu_seconds": 2.5}
    for run in runs:
        write_json(run.files.info, {"run": str(run), **spent})
    lines = table(params, "digits").splitlines()
    assert "| step | runs | CPU-seconds a run, median | GPU-seconds a run, median | peak MiB, largest |" in lines
    assert "| lsq | 1 | 10.0 | 2.5 | 100 |" in lines and "| digits | 1 | 10 | 2 | 0 | 0 | 0 |" in lines
    assert "; 5 GPU-seconds; peak memory" in summary(runs, since=0)


def test_a_snakemake_counts_what_it_trained_itself_and_not_what_another_trained_meanwhile(made: Made) -> None:
    runs = all_runs(made(variants=["lsq"], seeds=[0, 1, 2]), "digits")
    for run in runs:
        write_json(run.files.info, {"run": str(run), "cpu_seconds": 1e-3, "peak_memory_mib": 100 * (1 + run.seed)})
    assert summary([], since=0) == "No run was trained."
    assert "Trained 1 run in" in summary(runs[:1], since=0) and "0.10 GiB" in summary(runs[:1], since=0)
    assert "Trained 2 runs in" in summary(runs[:2], since=0) and "0.20 GiB" in summary(runs[:2], since=0)
    assert "; 0 CPU-seconds in training, elsewhere; peak memory" in summary(runs, since=0, here=False)
