"""Code digests: what reruns a rule and what does not."""

import ast
import re
import shutil
from pathlib import Path

import pytest

from ofq.runs import code_digest as code
from ofq.runs.registry import FOLDERS, family_of, find, problem, registered


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that the digests read."""
    copy = tmp_path / "ofq"
    shutil.copytree(Path(code.__file__).parents[1], copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "_ROOT", copy)
    return copy


def digests() -> dict[str, str]:
    for cached in (code.syntax_tree, code._fingerprint, code._imports):
        cached.cache_clear()
    entries = {
        "teacher": ["ofq.training.teacher"],
        "statsq": ["ofq.training.qat", *student("statsq")],
        "lsq": ["ofq.training.qat", *student("lsq")],
        "lsq-freezing": ["ofq.training.qat", *student("lsq"), find("remedy", "freezing").module],
        "statsq-cga": ["ofq.training.anneal", *student("statsq")],
        "swin": ["ofq.training.qat", *student("statsq", "swin_tiny_patch4_window7_224")],
        "tables": ["ofq.report.parts.tables"],
        "figures": ["ofq.report.parts.figures"],
        "track": ["ofq.tracking.mirror"],
    }
    readers = {name: entry.module for name, entry in registered("reader").items() if name != "cifar100"}
    entries |= {f"data of {name}": ["ofq.data.prepare", module] for name, module in readers.items()}
    return {rule: code.code_digest(*modules) for rule, modules in entries.items()}


def student(weight: str, model: str = "vit_tiny_patch16_224") -> list[str]:
    """The modules of a model, a ViT by default, with a weight quantizer."""
    return [find("quantizer", weight).module, family_of(model).module]


VITS = {"statsq", "lsq", "lsq-freezing", "statsq-cga"}
STUDENTS = {*VITS, "swin"}
FROM_FOLDERS = {"data of imagefolder", "data of imagenet"}
DATA = {"data of cifar10", "data of digits", "data of fashion-mnist", *FROM_FOLDERS}


def changed(before: dict[str, str]) -> set[str]:
    after = digests()
    return {rule for rule in before if before[rule] != after[rule]}


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_a_comment_or_docstring_reruns_nothing(package: Path) -> None:
    before = digests()
    quantizers = package / "quant" / "quantizers" / "lsq.py"
    text = quantizers.read_text()
    assert re.search(r'^SIGN_THRESHOLD = .*\n"""', text, re.MULTILINE), "a docstring below a constant"
    reworded = re.sub(r'"""(?=\S)', '"""Reworded: ', text)
    quantizers.write_text(f"# a comment\n{reworded}\n\n# another\n")
    assert changed(before) == set()


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("training/loop.py", "the loss is ", "the loss was "),
        ("training/loop.py", "resumed after step", "going on after step"),
        ("quant/quantizers/learned.py", "a quantizer has no step yet", "this quantizer has no step"),
        ("quant/convert.py", "the model is quantized already", "it is quantized already"),
        ("runs/checkpoint.py", "is damaged and passed over", "is damaged"),
        ("runs/files.py", "what was there before is kept", "the old file is kept"),
        ("errors.py", "did you mean", "do you mean"),
    ],
)
def test_another_message_reruns_nothing(package: Path, module: str, old: str, new: str) -> None:
    before = digests()
    path = package / module
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert changed(before) == set()


def test_every_module_that_training_imports_counts_or_has_a_reason_not_to(package: Path) -> None:
    """A digest that is too narrow says nothing: each module is edited, and what does not count is in the list."""
    named = [entry.module for kind in ("quantizer", "family", "remedy") for entry in registered(kind).values()]
    entries = ("ofq.training.teacher", "ofq.training.qat", "ofq.training.anneal", *named)
    imported, waiting = set(), list(entries)
    while waiting:
        if (name := waiting.pop()) not in imported:
            imported.add(name)
            waiting += code._imports(name)
    counted = code._closure(entries)
    for name in sorted(counted):
        path = code.module_file(name)
        assert path is not None and path.is_relative_to(package)
        before = code._fingerprint(name)
        append(path, "\nADDED = 1\n")
        code.syntax_tree.cache_clear()
        code._fingerprint.cache_clear()
        assert code._fingerprint(name) != before, name
    packages = {name for name in imported if code._is_package(name)}
    assert imported - counted == packages | (set(code.APART) & imported)
    assert all(reason.strip() for reason in code.APART.values())
    assert all(code.module_file(name) for name in code.APART), "a module that is gone"


def test_a_package_only_passes_names_on(package: Path) -> None:
    """What stands in an ``__init__`` counts in no digest, so that nothing may be computed there."""
    for path in package.rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.If, ast.Assign)
        others = [node for node in body if not isinstance(node, allowed)]
        if path == package / "__init__.py":
            assert [node.name for node in others if isinstance(node, ast.FunctionDef)] == ["lazy_names"]
        else:
            assert others == [], path


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_a_further_class_in_a_file_of_its_own_reruns_nothing(package: Path, folder: str) -> None:
    before = digests()
    path = package.joinpath(*folder.split("."), "further.py")
    path.write_text('from ofq.runs.registry import register\n\n\n@register("further")\nclass Further:\n    pass\n')
    assert changed(before) == set()


def test_the_description_of_a_setting_reruns_nothing(package: Path) -> None:
    before = digests()
    path = package / "config/quant_config.py"
    reworded = path.read_text().replace("bits of the weights of the blocks", "bits of the blocks' weights")
    path.write_text(reworded)
    assert changed(before) == set()
    path.write_text(reworded.replace("BitWidth = Field(8,", "BitWidth = Field(6,"))
    assert changed(before) == STUDENTS


@pytest.mark.parametrize(
    ("module", "rules"),
    [
        ("quant/quantizers/lsq.py", STUDENTS),  # every student rounds its inputs with LSQ
        ("quant/quantizers/statsq.py", {"statsq", "statsq-cga", "swin"}),
        ("quant/families/vit.py", VITS),
        ("quant/families/swin.py", {"swin"}),
        ("quant/modules/window.py", {"swin"}),
        ("quant/families/parts.py", STUDENTS),
        ("quant/kernels/choose.py", STUDENTS),
        ("oscillation/meter.py", STUDENTS),
        ("remedies/cga.py", {"statsq-cga"}),
        ("remedies/freezing.py", {"lsq-freezing"}),
        ("remedies/dampening.py", set()),
        ("training/anneal.py", {"statsq-cga"}),
        ("training/teacher.py", {"teacher"}),
        ("training/loop.py", {"teacher", *STUDENTS}),
        ("report/parts/figures.py", {"figures"}),
        ("report/parts/tables.py", {"tables"}),
        ("report/collect.py", {"tables", "figures"}),
        ("data/prepare.py", DATA),
        ("data/streamed.py", {"teacher", *STUDENTS}),
        ("data/readers/imagefolder.py", FROM_FOLDERS),
        ("data/pictures.py", {"teacher", *STUDENTS, *FROM_FOLDERS}),
        ("data/augment.py", {"teacher", *STUDENTS}),
        ("data/readers/digits.py", {"data of digits"}),
        ("data/readers/cifar.py", {"data of cifar10"}),
        ("tracking/mirror.py", {"track"}),
        ("workflow/warm.py", set()),
        ("cli/main.py", set()),
    ],
)
def test_an_edit_reruns_exactly_the_rules_that_run_it(package: Path, module: str, rules: set[str]) -> None:
    before = digests()
    append(package / module, "\nADDED = 1\n")
    assert changed(before) == rules


def test_a_remedy_of_the_user_counts_with_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("own/__init__.py", "own/calm.py", "own/helper.py", "shared.py", "other.py", "torch.py"):
        append_new(tmp_path / name)
    (tmp_path / "own/calm.py").write_text(
        "from .helper import *\nimport shared, torch\nfrom ofq.remedies import Remedy\n"
    )

    def digest() -> str:
        digests()  # nothing is remembered
        return code.code_digest("own.calm")

    plain, before = digests(), digest()
    for name, counts in (("own/helper.py", True), ("shared.py", True), ("own/__init__.py", True), ("other.py", False)):
        append(tmp_path / name, "ADDED = 1\n")
        assert (digest() != before) == counts, name
        before = digest()
    assert changed(plain) == set(), "the package's own digests do not read the working directory"
    assert problem(find("remedy", "own.calm:Calm")) == "own/calm.py defines no class 'Calm'; it has none"
    assert "no module 'own.clam' here" in str(problem(find("remedy", "own.clam:Calm")))


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("from ofq.remedies.freezing import IterativeFreezing", True),
        ("from ofq.remedies import IterativeFreezing as Calm", True),
        ("from ofq.remedies import *", True),
        ("import ofq.remedies", True),
        ("import ofq.remedies as remedies", True),
        ("from ofq import remedies", True),
        ("from ofq.remedies import Remedy", False),
    ],
)
def test_a_remedy_of_the_package_counts_for_one_of_the_user_however_it_is_imported(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, counts: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calm.py").write_text(line + "\n")
    digests()  # nothing is remembered
    before = code.code_digest("calm")
    append(package / "remedies" / "freezing.py", "\nADDED = 1\n")
    digests()
    assert (code.code_digest("calm") != before) == counts


def append_new(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("")


def test_report_code_imports_nothing_heavy() -> None:
    for module in (
        "ofq.report.parts.tables",
        "ofq.report.parts.figures",
        "ofq.workflow.cost",
        "ofq.workflow.reference",
    ):
        closure = code._closure([module])
        assert not {name for name in closure if name.startswith(("ofq.training", "ofq.quant", "ofq.models"))}
