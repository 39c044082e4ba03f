"""The command line: help worth reading, one line for what the machine refuses."""

import errno
import os

import pytest

from ofq.cli import main as cli
from ofq.cli.run import commands


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

    monkeypatch.setattr("ofq.workflow.targets.load", refuse)
    assert cli.main(["data", "digits"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ofq: error: cannot read or write runs/digits: {os.strerror(number)}; ")
    assert error.count("\n") == 1


def test_any_other_fault_of_the_machine_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr("ofq.workflow.targets.load", fail)
    with pytest.raises(OSError, match="broken disk"):
        cli.main(["data", "digits"])
