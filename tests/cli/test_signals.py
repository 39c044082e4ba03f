"""A signal ends any command in order and with a word, also where nothing is trained."""

import os
import signal
from pathlib import Path

import pytest

from ofq.cli import main as cli
from ofq.cli import run
from ofq.cli.command import Commands
from ofq.runs.files import replacing


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_signal_while_a_file_is_written_leaves_nothing_half_done(
    signum: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = Commands()

    @commands()
    def write() -> None:
        """Write a file."""
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(run, "find", lambda name: commands[name])
    monkeypatch.setattr(cli, "find", lambda name: commands[name])
    before = signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    try:
        assert cli.main(["write"]) == 128 + signum
        assert signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler)
    finally:
        signal.signal(signum, before)
    said = f"ofq: stopped by {signum.name}; what is finished or saved is kept, the same command does the rest\n"
    assert capsys.readouterr().err == said
    assert not list(tmp_path.iterdir())
