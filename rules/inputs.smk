# What names ask for, and what rules read and depend on.


def targets_of(study, group=None):
    """What a name asks for: a study's own target (group None), one of its groups, or everything."""
    rates = PARAMS.studies[study].learning_rates if group == EVERYTHING else None
    toy = TOY_FILES if group in (None, EVERYTHING) else []
    return [*files_of(study, group), *toy, tracked(study, group), *(targets_of(rates) if rates else [])]


def tracked(study, group):
    """The file that says that what a name asks for is mirrored in MLflow."""
    return stamp(study) if group is None else report_dir(study, group) / "tracked"


def files_of(study, group):
    """Files of what a name asks for: a study itself is its main grid and the groups that always go with it."""
    groups = PARAMS.studies[study].groups
    if group == EVERYTHING:
        grids = [None, *groups]
    elif group is None:
        grids = [None, *(name for name, spec in groups.items() if spec.always)]
    else:
        grids = [group]
    files = [path for grid in grids for path in grid_files(study, grid)]
    return list(dict.fromkeys([*files, *(claims_files(study) if group == EVERYTHING else [])]))


def grid_files(study, group=None):
    """Tables, figures, and by name every file of every run of a study's main grid or one of its groups.

    Snakemake does not make a missing intermediate file again while what follows from it is there; a deleted run
    would go unnoticed.
    """
    folder = report_dir(study, group)
    runs = PARAMS.view(study, group).runs(study)
    targets = [path for run in {*runs, *(run.teacher for run in runs)} for path in PARAMS.published(run)]
    names = LEARNING_RATES if PARAMS.studies[study].sweep_lr else grid_report(PARAMS, study, group)
    return sorted([*targets, *measured_files(study, group), *(folder / name for name in names)])


def claims_files(study):
    return [Path("results") / study / name for name in CLAIMS]


def run_of(wildcards):
    """The run that a training job's wildcards name."""
    if hasattr(wildcards, "teacher"):
        return Run(wildcards.study, wildcards.model, FULL_PRECISION, wildcards.teacher, int(wildcards.seed))
    return Run(wildcards.study, wildcards.model, wildcards.bits, wildcards.variant, int(wildcards.seed))


def settings(wildcards):
    """The settings that a run uses and no others: a change of them, and of nothing else, reruns it."""
    return PARAMS.resolve(run_of(wildcards)).canonical()


def code_of(module, recorded):
    """A rule's parameter that reruns it when the code of the module, or of the run's remedy, changes.

    Args:
        module: entry of the code.
        recorded: from the wildcards to the file of a finished run that holds its digest. Of a study with
            `rerun_on_code: false` that digest is what counts, so that nothing finished runs again.
    """

    current = cache(lambda modules: code_digest(module, *modules))

    def digest(wildcards):
        if not PARAMS.studies[wildcards.study].rerun_on_code and (path := recorded(wildcards)).exists():
            return read_json(path)["digests"]["code"]
        return current(PARAMS.resolve(run_of(wildcards)).modules if hasattr(wildcards, "seed") else ())

    return digest


def info_of(wildcards):
    return run_of(wildcards).files.info


def data_info_of(wildcards):
    return data_info(wildcards.study)


def threads_of(wildcards):
    return PARAMS.studies[wildcards.study].threads


def manifest_of(wildcards):
    return data_dir(wildcards.study) / "manifest.json"


def teacher_of(wildcards):
    return run_of(wildcards).teacher.files.taught


def parent_files(wildcards):
    parent = run_of(wildcards).sibling(PARAMS.variant(wildcards.variant).parent).files
    return {"parent_model": parent.model, "parent_trainer": parent.trainer}


def data_settings(wildcards):
    return json.dumps(PARAMS.studies[wildcards.study].data.model_dump(mode="json"), sort_keys=True)


def grid_of(wildcards):
    """Study and group (None: the main grid) whose report the wildcards name."""
    return wildcards.study, getattr(wildcards, "report", "report").removeprefix("report").lstrip("/") or None


def group_of(wildcards):
    """The group as an argument of the command line."""
    return grid_of(wildcards)[1] or ""


def grid_name(wildcards):
    """As people read it."""
    return " ".join(filter(None, grid_of(wildcards)))


def runs_of(wildcards):
    study, group = grid_of(wildcards)
    return PARAMS.view(study, group).runs(study)


def metrics_of(wildcards):
    return [run.files.metrics for run in runs_of(wildcards)]


def teacher_metrics_of(wildcards):
    runs = runs_of(wildcards)
    return sorted({run.teacher.files.metrics for run in runs if run.bits != FULL_PRECISION})


def mirrored_files(wildcards):
    """What MLflow shows: results and event logs of the runs, tables and figures; not weights and records."""
    large = {".safetensors", ".pt", ".parquet"}
    return [path for path in files_of(*grid_of(wildcards)) if path.suffix not in large]


def oscillation_of(wildcards):
    return [run.files.oscillation for run in runs_of(wildcards) if run.bits != FULL_PRECISION]


def weights_of(wildcards):
    return [run.files.weights for run in runs_of(wildcards) if run.bits != FULL_PRECISION]


def annealing_of(wildcards):
    study, group = grid_of(wildcards)
    view = PARAMS.view(study, group)
    return [run.files.annealing for run in view.runs(study) if run.variant in view.bands(study)]


def noise_of(wildcards):
    study, group = grid_of(wildcards)
    return [run.files.noise for run in PARAMS.view(study, group).trained(study)]


def probes_of(wildcards):
    study, group = grid_of(wildcards)
    return [run.files.probe for run in PARAMS.view(study, group).trained(study)]


def measured_files(study, group=None):
    """What is measured on the finished runs of a grid."""
    view = PARAMS.view(study, group)
    kinds = view.studies[study].measure
    return [getattr(run.files, kind) for run in view.trained(study) for kind in kinds]


def all_records(wildcards):
    """What verdicts are made of: every run of a study and its groups, teachers too, and what was measured on them."""
    study = wildcards.study
    runs = PARAMS.all_runs(study)
    files = [path for run in {*runs, *(run.teacher for run in runs)} for path in PARAMS.published(run)]
    files += [path for group in (None, *PARAMS.studies[study].groups) for path in measured_files(study, group)]
    return sorted(path for path in set(files) if path.suffix in (".json", ".parquet") and path.name != "run.json")


def claims_settings(wildcards):
    """What a claim uses beside the runs: which they are, and how they differ."""
    runs = [str(run) for run in PARAMS.all_runs(wildcards.study)]
    return json.dumps([runs, PARAMS.studies[wildcards.study].data.model_dump(mode="json", exclude={"root"})])


def record_of(wildcards):
    """The committed record that the main table is compared with, where there is one."""
    record = recorded(report_dir(*grid_of(wildcards))) / "tables" / "main.csv"
    return record if record.exists() else []


def report_settings(wildcards):
    """What the tables and figures use beside the runs themselves: their order, and published numbers to show."""
    study, group = grid_of(wildcards)
    view = PARAMS.view(study, group)
    spec = view.studies[study]
    return json.dumps(
        {
            "runs": [str(run) for run in view.runs(study)],
            "compare": spec.compare,
            "paper_models": {model: PARAMS.models[model].paper_model for model in spec.models},
            "data": spec.data.model_dump(mode="json", exclude={"root"}),
        }
    )
