"""Runs `kvgate` in this process, as a shell would."""

from dataclasses import dataclass

import pytest

from gateway.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: int
    out: str
    err: str


def kvgate(capsys: pytest.CaptureFixture[str], *args: object) -> Done:
    """Run a command to its end."""
    with pytest.raises(SystemExit) as exited:
        main([str(arg) for arg in args])
    captured = capsys.readouterr()
    assert isinstance(exited.value.code, int)
    return Done(exited.value.code, captured.out, captured.err)
