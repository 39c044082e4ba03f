"""Commands for taking a finished run home, and for using what was taken. Each imports what it needs when called."""

from pathlib import Path

from ofq.cli.command import RUN, Argument, Commands
from ofq.errors import UserError, missing

COMMANDS = Commands()

_MODEL: Argument = ("model", {"metavar": "MODEL", "help": "folder of a finished run, or an exported file or folder"})


@COMMANDS(
    RUN,
    ("--format", {"choices": ["packed", "onnx", "hub", "all"], "default": "packed", "help": "what to write"}),
    ("--output", {"metavar": "DIR", "help": "where to write it; left out: results/RUN/export"}),
    warm=True,
)
def export(run: str, format: str, output: str | None) -> None:
    """Write a finished run as a model that one can take home: integer codes instead of latent weights.

    Takes a finished student. packed: packed.safetensors, the codes at their true width with steps and biases, a header
    with all that is needed to build the model and to feed it, and checksums (docs/packed-format.md). onnx: model.onnx,
    codes as INT2 or INT4, for onnxruntime; needs the packages of the extra `export`. hub: a folder for the Hugging Face
    hub, with the packed file, configuration, model card and results; nothing is uploaded. all: packed and onnx,
    both evaluated on the study's images, and sizes.json with what each layer takes in each file. The run's own files
    stay as they are. docs/export.md says what the formats are for.

    examples: python -m ofq export digits/vit_micro/w2a2/statsq-qkr/seed0 --format packed
              python -m ofq export results/digits/vit_micro/w2a2/statsq/seed0 --format onnx --output /tmp/mine
    """
    from ofq.config.grid import check_run
    from ofq.runs.paths import Run
    from ofq.workflow.targets import load_project

    named = Run.named(run)
    params = load_project()
    check_run(params, named)
    folder = named.files.root
    if named.full_precision:
        raise UserError(f"{named} is a full-precision run: it has no codes; name a student's")
    for path in (named.files.metrics, named.files.info):
        if not path.exists():
            raise missing(path)
    import torch

    from ofq.export.write import FORMATS, deployed_run

    torch.set_num_threads(params.studies[named.study].threads)
    for path in FORMATS[format](deployed_run(folder), Path(output) if output else folder / "export"):
        print(f"{path}: {path.stat().st_size:,} bytes")


@COMMANDS(_MODEL, ("--study", {"metavar": "STUDY", "help": "on whose images; left out: the one of its run"}))
def evaluate(model: str, study: str | None) -> None:
    """Evaluate a finished or exported model on a study's images.

    Prints top1 in percent and loss, as metrics.json of the run has them. Needs the study's data.

    examples: python -m ofq evaluate results/digits/vit_micro/w2a2/statsq/seed0 --study digits
              python -m ofq evaluate results/digits/vit_micro/w2a2/statsq/seed0/export/packed.safetensors
    """
    from ofq.workflow.targets import load_project

    params = load_project()
    if study is not None:
        params.study_named(study)
    import torch

    from ofq.export.load import open_model
    from ofq.export.use import data_for, measured

    loaded = open_model(model)
    study = study or loaded.about.run.partition("/")[0]
    torch.set_num_threads(params.study_named(study).threads)
    for name, value in measured(loaded.model, data_for(loaded.about, study)).items():
        print(f"{name}: {value}")


@COMMANDS(_MODEL, ("images", {"metavar": "IMAGE", "nargs": "+", "help": "image files"}))
def predict(model: str, images: list[str]) -> None:
    """Classify image files with a finished or exported model.

    Prints a line for each file: its most probable classes with their probabilities. An image is brought to the model's
    size and normalised as the evaluation images of its study are; it should look like those.

    example: python -m ofq predict results/digits/vit_micro/w2a2/statsq/seed0 three.png
    """
    from ofq.export.load import open_model
    from ofq.export.use import predicted

    loaded = open_model(model)
    for line in predicted(loaded.model, loaded.about, [Path(image) for image in images]):
        print(line)
