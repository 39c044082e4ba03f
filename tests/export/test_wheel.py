"""The library alone: our wheel in an environment that has nothing but what it asks for."""

import shutil
import subprocess
import sysconfig
import venv
import zipfile
from email.parser import HeaderParser
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image
from setuptools import build_meta

import ofq
from tests.conftest import ROOT

SCRIPT = """
import importlib.util, sys
import ofq, ofq.quant, ofq.oscillation, ofq.remedies
assert not {"torch", "timm", "pandas"} & set(sys.modules), "imports are not lazy"
import torch
for name in ("snakemake", "dvc", "mlflow", "sklearn", "onnx"):
    assert importlib.util.find_spec(name) is None, name
model = ofq.load(sys.argv[1])
torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
from ofq.oscillation import OscillationMeter
from ofq.remedies import ConfidenceGuidedAnnealing
from ofq.training import distillation_loss
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "src/ofq", source / "src/ofq", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(source)
        return source / build_meta.build_wheel(str(source))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and, linked from here, what it asks for without extras."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(root)}))
    with zipfile.ZipFile(wheel) as content:
        content.extractall(site)
        (metadata,) = (name for name in content.namelist() if name.endswith("/METADATA"))
        asked = HeaderParser().parsestr(content.read(metadata).decode()).get_all("Requires-Dist") or []
    waiting, taken = [Requirement(text) for text in asked], set[str]()
    while waiting:
        each = waiting.pop()
        if each.name in taken or (each.marker and not each.marker.evaluate({"extra": ""})):
            continue
        taken.add(each.name)
        found = distribution(each.name)
        waiting += [Requirement(text) for text in found.requires or []]
        for part in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / part).exists():
                (site / part).symlink_to(found.locate_file(part))
    return root / "bin/python"


def alone(python: Path, where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-I", *arguments], cwd=where, capture_output=True, text=True, timeout=300)


def test_the_wheel_alone_loads_what_was_exported(python: Path, file: Path, tmp_path: Path) -> None:
    images, here = torch.randn(4, 1, 8, 8), ofq.load(file)
    torch.save(images, tmp_path / "images.pt")
    done = alone(python, tmp_path, "-c", SCRIPT, str(file), "images.pt", "logits.pt")
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt"), here(images))


def test_the_wheel_alone_classifies_an_image(python: Path, file: Path, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 128).save(tmp_path / "grey.png")
    done = alone(python, tmp_path, "-m", "ofq", "predict", str(file), "grey.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("grey.png: ")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["evaluate", "MODEL"], "params.yaml not found in "),
        (["predict", "model.onnx", "grey.png"], "pip install 'ofq[export]'"),
        (["report", "tables", "digits"], "pip install 'ofq[pipeline]'"),
    ],
)
def test_what_the_wheel_lacks_is_said_in_one_line(
    command: list[str], said: str, python: Path, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").touch()
    if command[0] == "report":
        shutil.copy(ROOT / "params.yaml", tmp_path)
    done = alone(python, tmp_path, "-m", "ofq", *(str(file) if each == "MODEL" else each for each in command))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and said in done.stderr


def test_all_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        packed = {name for name in content.namelist() if name.startswith("ofq/")}
    assert packed >= {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/ofq").rglob("*.py")}
    assert "ofq/py.typed" in packed


def test_the_environment_is_one_of_its_own(python: Path) -> None:
    done = alone(python, python.parent, "-c", "import ofq; print(ofq.__file__)")
    assert Path(done.stdout.strip()).is_relative_to(python.parents[1])
