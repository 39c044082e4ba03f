"""What ``python -m ofq STEP --help`` says beside the one line of the list: what is read and written, and an example."""

# by step; each ends with an example
DETAILS = {
    "data": """\
Reads the study's data set (studies.STUDY.data in params.yaml) and writes train.safetensors, eval.safetensors and
manifest.json (sha256, counts by class, pixel statistics, sources) into results/STUDY/data. Later steps check the files
against the manifest.

--verify reads the prepared files again, and their sources where they are on this machine; it prints a line for each
good file and for each problem, and ends with exit code 2 where there is one. Without STUDY: all studies that have data.

examples: python -m ofq data digits
          python -m ofq data --verify""",
    "teacher": """\
Needs the study's data. Trains with recipes.*.teacher and writes the run's files into results/RUN. The coordinates of a
teacher are study/model/fp/teacher/seedN.

Ctrl-C saves the state under runs/RUN; the same command goes on from there.

example: python -m ofq teacher digits/vit_micro/fp/teacher/seed0""",
    "qat": """\
Needs the study's data and the teacher of the same model and seed. Starts from the teacher's weights, sets the learned
steps, trains with recipes.*.qat while the integer codes of every weight are followed, and writes the run's files into
results/RUN.

Ctrl-C saves the state under runs/RUN; the same command goes on from there.

example: python -m ofq qat digits/vit_micro/w2a2/statsq-qkr/seed0""",
    "cga": """\
Needs what qat needs and the finished run of the variant's parent. Continues it with recipes.*.cga: in each step only
weights near a rounding threshold train. The parent's files are left as they are.

Ctrl-C saves the state under runs/RUN; the same command goes on from there.

example: python -m ofq cga digits/vit_micro/w2a2/statsq-qkr-cga/seed0""",
    "tables": """\
Reads metrics.json and oscillation.parquet of every run of the study's main grid, or of one of its groups; writes main,
agreement, ablation and oscillation as CSV, Markdown, LaTeX and HTML into results/STUDY/report/tables, or
results/STUDY/report/GROUP/tables. docs/names.md explains each column. Nothing is trained.

examples: python -m ofq tables digits
          python -m ofq tables digits controls""",
    "figures": """\
Reads metrics.json, oscillation.parquet and weights.parquet of every run of the study's main grid, or of one of its
groups; writes accuracy, oscillation, latent_weights and layer_groups as PNG and SVG into results/STUDY/report/figures,
or results/STUDY/report/GROUP/figures. Nothing is trained.

examples: python -m ofq figures digits
          python -m ofq figures digits controls""",
    "comparison": """\
Reads metrics.json of every run of a grid; writes the table comparison: differences between the pairs of variants that
`compare` of the grid names in params.yaml, paired by seed. Nothing is trained.

example: python -m ofq comparison digits controls""",
    "annealing": """\
Reads annealing.parquet of the annealed runs of a grid; draws the figure annealing: weights left in the band at each
step. Nothing is trained.

example: python -m ofq annealing digits controls""",
    "boundary-range": """\
Reads metrics.json and annealing.parquet of the annealed runs of a grid; writes the table boundary_range and draws the
figure scale_trajectories: accuracy, oscillation and what is left in the band by its width, and where the quantizer's
steps go. Nothing is trained.

example: python -m ofq boundary-range digits sweep""",
    "noise-table": """\
Reads noise.parquet of the runs of a grid, those of annealed variants apart; writes the table noise. Nothing is trained.
The measurements themselves are made by: python -m ofq noise RUN

example: python -m ofq noise-table digits components""",
    "probes": """\
Reads probe.json of the runs of a grid, those of annealed variants apart; writes the table coupling (do query and key
turn round together?) and draws the figure boundary (what weights do near thresholds). Nothing is trained. The probes
themselves are made by: python -m ofq probe RUN

example: python -m ofq probes digits components""",
    "claims": """\
Reads claims.yaml and, of the study's finished runs, what each claim needs; writes claims.md and claims.json into
results/STUDY/report: effect, interval, p after Holm's correction, verdict, and how many seeds would decide what is
undecided. Runs that are not there do not count; a claim without any is untested. docs/claims.md explains how verdicts
are made and how a claim is added. Nothing is trained.

example: python -m ofq claims digits""",
    "learning-rates": """\
For a study with sweep_lr: writes learning_rate as table and figure into results/STUDY/report, with the rate of the
lowest cross-entropy marked. Nothing is trained.

example: python -m ofq learning-rates digits-lr""",
    "probe": """\
Takes a finished student's model and the state of its optimizer and trains a copy for a further window at the run's last
learning rate, annealing nothing; writes probe.json and probe.parquet beside the run's files, which stay as they are:
shares of oscillating weights and reversals by layer group, how often gradients and codes turn round by the distance to
the nearest rounding threshold, and whether query and key codes turn round together.

example: python -m ofq probe digits/vit_micro/w2a2/statsq/seed0""",
    "noise": """\
Takes a finished student and evaluates it with noise on its codes: weights near a rounding threshold get one of the two
codes next to it at random, or as many weights anywhere get a neighbouring code; ten trials each, and without noise.
Writes noise.parquet beside the run's files, which stay as they are. Nothing is trained.

example: python -m ofq noise digits/vit_micro/w2a2/statsq/seed0""",
    "toy": """\
Simulates a row of eight weights that gradient descent pulls towards targets through a quantizer with a fixed, a learned
and a statistical step, and writes each weight's way into results/toy/trace.csv. It needs no data and no run.

example: python -m ofq toy""",
    "toy-figure": """\
Reads results/toy/trace.csv and draws results/toy/toy.png and toy.svg: latent weight and step of the quantizer, against
each other and over time.

example: python -m ofq toy-figure""",
    "why": """\
FILE is a table (CSV) or figure (PNG, SVG) of a report. Prints the chosen rows and, for each run behind them, its seed,
settings, digests of code and inputs, versions, and its id in the MLflow store.

examples: python -m ofq why results/digits/report/tables/main.csv w2a2 statsq
          python -m ofq why results/digits/report/figures/accuracy.png""",
    "track": """\
Reads events.jsonl of runs, finished or in training, and mirrors them into the MLflow store of the project: one
experiment for each study, one run for each run, tables and figures beside them. What stands there unchanged is passed
over; a run that was repeated replaces its earlier self. The store can be deleted: this brings everything back.

examples: python -m ofq track
          python -m ofq track digits --follow""",
    "cost": """\
Prints Markdown tables from run.json of the finished runs of a study and its groups: runs, CPU-seconds and peak memory
of each step; runs and CPU-seconds of each grid.

example: python -m ofq cost digits""",
    "reference": """\
Takes a finished study whose runs were all made by the same code and versions; replaces results/reference/STUDY, the
record that is committed. No other step writes there.

example: python -m ofq reference digits""",
    "schema": """\
The JSON schema is what editors check params.yaml with; --markdown prints the page docs/params.md. Both are written from
the types in src/ofq/config, and a test holds that they are up to date.

examples: python -m ofq schema > params.schema.json
          python -m ofq schema --markdown > docs/params.md""",
    "stages": """\
Prints dvc.yaml: four stages (data, teacher, runs, report) that ask Snakemake, with the folders of the study that
`study:` in params.yaml names. Write it anew after that name, or the study's models or bits, have changed.

example: python -m ofq stages > dvc.yaml""",
    "clean": """\
Lists what would go, with sizes, and asks. Goes: results of every study, logs, what Snakemake remembers, caches of the
tools. Stays: results/reference, runs (states from which interrupted runs resume), the environment, the MLflow store,
DVC's cache, and everything else.

With --yes it does not ask, and removes runs too. It refuses while snakemake works here.

examples: python -m ofq clean
          make clean YES=1""",
    "drill": """example: python -m tools.drill --kills 20""",
    "warm": """\
The Snakefile starts it beside local jobs and ends it; there is no need to call it. Jobs find it through the variable
OFQ_WARM_SOCKET, and run in a process of their own where it does not answer.

example: python -m ofq warm /tmp/ofq.socket""",
}
