"""The command line: help worth reading, one line for what the machine refuses."""

import errno
import importlib
import logging
import os
import subprocess
import sys
import tomllib

import pytest

from ofq import environment
from ofq.cli import main as cli
from ofq.cli.run import commands
from ofq.environment import configure_logging
from tests.conftest import ROOT


@pytest.mark.parametrize("step", list(commands()))
def test_each_step_has_a_help_with_an_example(step: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([step, "--help"])
    assert end.value.code == 0
    assert f"python -m ofq {step}" in capsys.readouterr().out.split("example", 1)[1]


REFUSALS = [
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST,
]  # fmt: skip


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_what_the_machine_refuses_is_one_line_that_says_how_to_mend_it(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "refused", "runs/digits")

    monkeypatch.setattr("ofq.workflow.targets.planned", refuse)
    assert cli.main(["data", "digits"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ofq: error: cannot read or write runs/digits: {os.strerror(number)}; ")
    assert error.count("\n") == 1


def test_any_other_fault_of_the_machine_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr("ofq.workflow.targets.planned", fail)
    with pytest.raises(OSError, match="broken disk"):
        cli.main(["data", "digits"])


@pytest.mark.parametrize("level", ["loud", "", "infos"])
def test_a_level_that_does_not_exist_is_one_line(
    level: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OFQ_LOG_LEVEL", level)
    assert cli.main(["schema"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("ofq: error: unknown level in OFQ_LOG_LEVEL: ")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("level", "lines"),
    [
        ("debug", ["fine", "progress", "ofq: warning: beware"]),
        ("INFO", ["progress", "ofq: warning: beware"]),
        ("warning", ["ofq: warning: beware"]),
        ("error", []),
    ],
)
def test_the_level_says_how_much_is_told_and_results_stay_apart(
    level: str, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OFQ_LOG_LEVEL", level)
    configure_logging()
    log = logging.getLogger("ofq.training.loop")
    log.debug("fine")
    log.info("progress")
    log.warning("be%s", "ware")
    print("a result")
    shown = capsys.readouterr()
    assert (shown.err.splitlines(), shown.out) == (lines, "a result\n")


@pytest.mark.parametrize(("name", "near"), [("qats", "qat"), ("tabels", "tables"), ("boundry-range", "boundary-range")])
def test_an_unknown_command_names_the_nearest(name: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "digits"]) == 2
    assert f"unknown command '{name}'; did you mean '{near}'?" in capsys.readouterr().err


def test_a_part_of_the_report_has_its_nearest_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(["report", "tabels", "digits"]) == 2
    assert "unknown part of the report: 'tabels'; did you mean 'tables'?" in capsys.readouterr().err


def test_the_list_of_commands_has_each_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, command in commands().items():
        assert f"\n  {name} " in shown and command.summary.endswith(".") and command.summary in shown


def test_the_installed_command_is_the_same_as_the_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["ofq"].partition(":")
    monkeypatch.setattr(sys, "argv", ["ofq", "--help"])
    assert getattr(importlib.import_module(module), name)() == 0
    assert "commands:" in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_fault() -> None:
    program = f"{sys.executable} -m ofq --help"
    # The pipe has no reader any more when the help is printed.
    ran = subprocess.run(["bash", "-c", f"(sleep 0.2; {program}) | true"], capture_output=True, text=True, check=False)
    assert ran.stderr == ""


def test_one_page_of_the_schema_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema", "--markdown", "--report"]) == 2
    assert capsys.readouterr().err == "ofq: error: which page? --markdown or --report, not both\n"


def test_a_job_for_the_warm_process_starts_without_reading_settings() -> None:
    script = (
        "import sys\n"
        "from ofq.cli.run import find\n"
        "find('qat').parse(['digits/vit_micro/w2a2/statsq/seed0'])\n"
        "heavy = {'torch', 'timm', 'pydantic', 'yaml', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OFQ_LOGLEVEL", "info", "unknown environment variable 'OFQ_LOGLEVEL'; did you mean 'OFQ_LOG_LEVEL'?"),
        ("OFQ_RESUME_ACROSS_COD", "1", "did you mean 'OFQ_RESUME_ACROSS_CODE'?"),
        ("OFQ_LOKCS", "/tmp", "did you mean 'OFQ_LOCKS'?"),
        ("ofq_log_level", "info", "unknown environment variable 'ofq_log_level'; "),
        ("OFQ_", "", "unknown environment variable 'OFQ_'; "),
        ("OFQ_RESUME_ACROSS_CODE", "true", "OFQ_RESUME_ACROSS_CODE should be 1 or 0, not 'true'"),
    ],
)
def test_a_variable_that_would_do_nothing_is_one_line(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert cli.main(["schema"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and said in shown.err and shown.err.count("\n") == 1


def test_every_variable_of_the_project_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [value for value in vars(environment).values() if str(value).startswith("OFQ_")]
    assert {"OFQ_LOCKS", "OFQ_LOG_LEVEL", "OFQ_OWN_PROCESS", "OFQ_SETTINGS"} < set(names)
    for name in names:
        monkeypatch.setenv(name, "0")
    environment.check_variables()
