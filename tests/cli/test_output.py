"""Tables line up, and colour is for those who want it."""

import pytest
import typer

from gateway.cli.output import fail_bad_config, print_faults, print_table, problems
from gateway.config import ConfigError, Fault


def test_columns_are_as_wide_as_their_widest_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "LONG"), [("wide cell", "x"), ("y", "z")])
    assert capsys.readouterr().out == "A          LONG\nwide cell  x\ny          z\n"


def test_faults_go_to_standard_error_without_colour(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a pipe nor NO_COLOR gets escape sequences."""
    print_faults([Fault("a.b", "c")])
    monkeypatch.setenv("NO_COLOR", "1")
    print_faults([Fault("d", "e")])
    assert capsys.readouterr().err == "a.b: c\nd: e\n"


def test_bad_configuration_exits_with_78(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as exited:
        fail_bad_config(ConfigError(Fault("a", "b")), as_json=False)
    assert exited.value.exit_code == 78
    assert capsys.readouterr().err == "a: b\n"
    assert problems([Fault("a", "b")]) == [{"path": "a", "message": "b"}]
