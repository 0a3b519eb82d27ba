"""The demo's table: bars that add up, colour on a terminal, plain lines elsewhere, silence where it is asked for."""

from io import StringIO

import pytest
from hypothesis import given, settings, strategies as st
from rich.console import Console

from gateway.cli.demo_state import Pool
from gateway.cli.demo_story import Phase, Sent, count
from gateway.cli.demo_table import Screen, legend, parts, plain_line, screen
from tests.cli.demo_sample import REFUSED, good_run, pool, state

HALF = pool(held=1024, reserved=2048, headroom=2048, requests=5)


@pytest.mark.parametrize(
    ("of", "cells"),
    [
        (pool(), (0, 0, 16)),
        (HALF, (4, 4, 8)),
        (pool(held=1, reserved=1, headroom=4080), (1, 0, 15)),
        (pool(held=4096, reserved=4096, headroom=0), (16, 0, 0)),
        (pool(held=5000, reserved=5000, headroom=0), (16, 0, 0)),
    ],
)
def test_a_bar_shows_held_promised_and_free(of: Pool, cells: tuple[int, int, int]) -> None:
    """What is held at all is seen, and what overflows stays in the bar."""
    assert parts(of, 16) == cells


@given(held=st.integers(0, 9000), headroom=st.integers(0, 4096), cells=st.integers(1, 80))
@settings(deadline=None)
def test_a_bar_is_always_as_long(held: int, headroom: int, cells: int) -> None:
    shown = parts(pool(held=held, headroom=headroom), cells)
    assert sum(shown) == cells
    assert min(shown) >= 0


def test_a_line_for_files() -> None:
    """Engines, queue and totals in one line of plain characters."""
    line = plain_line(state(HALF, pool("small"), queued=7), count(good_run()))
    assert line == (
        "  large [####++++........] 2,048 of 4,096 free, 5 running"
        " | small [................] 4,096 of 4,096 free, 0 running"
        " | queue 7 of 24 | admitted 5 (1 after waiting), refused 1, done 5"
    )


def test_elsewhere_than_on_a_terminal_lines_are_plain_and_whole() -> None:
    """No escape codes, no breaks, and a line for each look."""
    out = StringIO()
    shown = Screen(Console(file=out, width=40), silent=False)
    shown.say("a" * 100)
    shown.show(state(), [])
    shown.freeze()
    first, second = out.getvalue().splitlines()
    assert (first, second) == ("a" * 100, plain_line(state(), count([])))
    assert shown.ascii_only
    assert shown.every_s == 1


def test_on_a_terminal_the_table_stands_in_place() -> None:
    """It has colours, all numbers, and the refused answer word for word."""
    out = StringIO()
    shown = Screen(Console(file=out, width=200, force_terminal=True, color_system="standard"), silent=False)
    refused = Sent(Phase.BURST, streamed=True, refused=REFUSED)
    shown.show(state(HALF, queued=3), [])
    shown.say("said above")
    shown.show(state(HALF, queued=3), [refused])
    shown.freeze()
    shown.freeze()
    shown.say("said below")
    text = out.getvalue()
    for seen in ("4,096 tokens", "1,024", "2,048", "queue 3 of 24", REFUSED.message, "Retry-After: 3", "\x1b["):
        assert seen in text
    assert text.index("said above") < text.index(REFUSED.message) < text.index("said below")
    assert shown.every_s < 1


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json, standard output belongs to the one object."""
    shown = screen(silent=True)
    shown.say("x")
    shown.show(state(), [])
    assert capsys.readouterr().out == ""


def test_the_legend_uses_the_signs_of_the_bar() -> None:
    assert legend(ascii_only=True).startswith("# held")
    assert legend(ascii_only=False).isascii() is False
