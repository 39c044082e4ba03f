"""Commands that say how far a study is, what is left, and what it costs. Each imports what it needs when called."""

from ofq.cli.command import STUDY, Commands

COMMANDS = Commands()


@COMMANDS(STUDY, ("group", {"metavar": "GROUP", "nargs": "?", "help": "of the study, or everything; see above"}))
def runs(study: str, group: str | None) -> None:
    """Print what is left to run of a study, one command a line, for machines without Snakemake.

    Without GROUP: what `snakemake STUDY` runs, the groups that are always part of it included. A line is a command and
    what it is called with, such as `qat digits/vit_micro/w2a2/statsq/seed0`, each after those that it needs. Left out
    is what is right: finished, and made from the settings, the code and the files that are here. Tables, figures and
    claims are left to `python -m ofq report`. This runs all of it, and this only the teachers, 8 at a time:

        python -m ofq runs digits | xargs -n 2 python -m ofq
        python -m ofq runs digits | grep ^teacher | xargs -P 8 -n 2 python -m ofq

    examples: python -m ofq runs digits
              python -m ofq runs digits everything
    """
    from ofq.workflow.finished import Finished
    from ofq.workflow.targets import load_project

    finished = Finished(load_project())
    left = [made for made in finished.wanted(study, group) if not finished.is_right(made)]
    for made in left:  # only now: what takes the lines may begin to make these
        print(made)


@COMMANDS(STUDY, ("group", {"metavar": "GROUP", "nargs": "?", "help": "of the study, or everything"}))
def plan(study: str, group: str | None) -> None:
    """Print what a study would run and what that would cost, before it runs.

    A line for each job that `snakemake STUDY` would run now (with GROUP: that of a group), by Snakemake's own plan: why
    (missing, settings and which, code, newer inputs), the saved step that it goes on from, the steps that are left,
    hours, memory, and disk with the states of trainers. Where `python -m ofq runs` goes by the files alone and needs no
    Snakemake, this says what Snakemake does. The last line begins with `total:` and ends in CPU-hours or GPU-hours.

    How long a step takes is known from finished runs of the same kind, here or in the committed records. Otherwise each
    kind is tried on random images, which takes a minute or two; that needs the study's device. Nothing of the study is
    trained, and nothing is written.

    examples: python -m ofq plan digits
              python -m ofq plan digits controls
    """
    from ofq.workflow.forecast.table import forecast
    from ofq.workflow.targets import load_project

    print(forecast(load_project(), study, group))


@COMMANDS(
    ("study", {"metavar": "STUDY", "nargs": "?", "help": "left out: the one that a bare snakemake builds"}),
    ("group", {"metavar": "GROUP", "nargs": "?", "help": "of the study, or everything"}),
    ("--watch", {"action": "store_true", "help": "go on until all runs are finished, or Ctrl-C"}),
)
def status(study: str | None, group: str | None, watch: bool) -> None:
    """Say how far the runs of a study are, and how long the rest will take.

    A line for the study, with the time that is left, and one for each run: waiting (and which earlier result it
    replaces), training (step, loss, accuracy, share of oscillating weights, images a second, time left), finished,
    failed (why, and its log), or interrupted (at which step it was stopped, and where it will resume). In a terminal it
    is a table of what fits; in a pipe, lines (| grep ^failed). It reads files, asks who holds a run's lock, and writes
    nothing.

    The time that is left is that of finished runs of the same kind, here or in the committed records; where there are
    none it is not known. Whether files were changed since they were published says `python -m ofq verify`.

    examples: python -m ofq status
              python -m ofq status digits controls --watch
    """
    from ofq.workflow.targets import load_project
    from ofq.workflow.watch.screen import show

    params = load_project()
    show(params, params.study if study is None else study, group, watch=watch)


@COMMANDS(STUDY)
def cost(study: str) -> None:
    """Print what each step of a study cost.

    Prints Markdown tables from run.json of the finished runs of a study and its groups: runs, CPU-seconds and peak
    memory of each step; runs and CPU-seconds of each grid; GPU-seconds too where runs had a card.

    example: python -m ofq cost digits
    """
    from ofq.workflow.cost import table
    from ofq.workflow.targets import load_project

    print(table(load_project(), study))
