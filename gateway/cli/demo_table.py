"""How the demo looks while it runs: a live table on a terminal, a plain line per second elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.cli.demo_state import Pool, State
from gateway.cli.demo_story import Counts, Refused, Sent, count

BAR_CELLS = 32
PLAIN_BAR_CELLS = 16
FRAME_EVERY_S = 0.2
LINE_EVERY_S = 1.0
HELD, PROMISED, FREE = "#", "+", "."
HELD_STYLE, PROMISED_STYLE, FREE_STYLE = "green", "yellow", "dim"


class Screen:
    """Prints what is said and shows frames: in place on a terminal, as a line each elsewhere, not at all if silent."""

    def __init__(self, console: Console, *, silent: bool) -> None:
        self._console = console
        self._silent = silent
        self._live: Live | None = None
        self.ascii_only = not console.is_terminal or console.options.ascii_only
        self.every_s = FRAME_EVERY_S if console.is_terminal else LINE_EVERY_S

    def say(self, text: str) -> None:
        """Print a paragraph; above the table while there is one."""
        if self._silent:
            return
        if self._console.is_terminal:
            # The terminal breaks long lines itself: a command that rich has broken cannot be copied.
            self._console.print(Text(text), soft_wrap=True)
        else:
            # Not through rich: it would break lines at a width that a file does not have.
            print(text, file=self._console.file, flush=True)

    def show(self, state: State, sent: Sequence[Sent]) -> None:
        """Show how things stand."""
        if self._silent:
            return
        if not self._console.is_terminal:
            self.say(plain_line(state, count(sent)))
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(frame(state, sent, ascii_only=self.ascii_only), refresh=True)

    def freeze(self) -> None:
        """Leave the last frame where it is; what is said next stands below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def screen(*, silent: bool) -> Screen:
    """A screen on standard output."""
    return Screen(Console(file=sys.stdout, highlight=False), silent=silent)


def parts(pool: Pool, cells: int) -> tuple[int, int, int]:
    """Cells of a bar for what is held now, what is promised beyond it, and what is free; `cells` in all.

    Memory that ended requests or other clients may still hold counts as promised: nobody else can have it.
    """
    if pool.capacity_tokens <= 0:
        return 0, 0, cells
    held = min(cells, -(-pool.resident_tokens * cells // pool.capacity_tokens))
    free = min(cells - held, pool.headroom_tokens * cells // pool.capacity_tokens)
    return held, cells - held - free, free


def plain_line(state: State, counts: Counts) -> str:
    """One line without colour: each engine's memory, the queue, the totals."""
    pools = " | ".join(_plain_pool(pool) for pool in state.backends)
    return f"  {pools} | queue {state.queued} of {state.queue_requests_max} | {totals(counts)}"


def _plain_pool(pool: Pool) -> str:
    held, promised, free = parts(pool, PLAIN_BAR_CELLS)
    bar = HELD * held + PROMISED * promised + FREE * free
    return f"{pool.name} [{bar}] {pool.headroom_tokens:,} of {pool.capacity_tokens:,} free, {pool.requests} running"


def totals(counts: Counts) -> str:
    """Counts in words."""
    admitted = f"admitted {counts.at_once + counts.waited} ({counts.waited} after waiting)"
    return f"{admitted}, refused {counts.refused}, done {counts.done}"


def frame(state: State, sent: Sequence[Sent], *, ascii_only: bool = False) -> RenderableType:
    """The live table: engines, queue, totals, and a refused answer as soon as there is one."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("engine", "KV capacity", "", "held", "reserved", "headroom", "running"):
        table.add_column(head, justify="left" if head in ("engine", "") else "right", no_wrap=True)
    for pool in state.backends:
        table.add_row(
            pool.name,
            f"{pool.capacity_tokens:,} tokens",
            _bar(pool, ascii_only=ascii_only),
            f"{pool.resident_tokens:,}",
            f"{pool.reserved_tokens:,}",
            f"{pool.headroom_tokens:,}",
            str(pool.requests),
        )
    lines = [Text(f"queue {state.queued} of {state.queue_requests_max}   {totals(count(sent))}")]
    refused = next((one.refused for one in sent if one.refused), None)
    if refused is not None:
        lines.append(Text(f"a refused client reads:  {verbatim(refused)}", style="red"))
    return Group("", table, *lines)


def verbatim(refused: Refused) -> str:
    """A refusal as its client reads it."""
    return f"HTTP {refused.status}   Retry-After: {refused.retry_after}   {refused.message}"


def _bar(pool: Pool, *, ascii_only: bool) -> Text:
    held, promised, free = parts(pool, BAR_CELLS)
    signs = (HELD, PROMISED, FREE) if ascii_only else ("█", "▓", "░")
    styles = (HELD_STYLE, PROMISED_STYLE, FREE_STYLE)
    return Text.assemble(
        *((sign * n, style) for sign, n, style in zip(signs, (held, promised, free), styles, strict=True))
    )


def legend(*, ascii_only: bool) -> str:
    """What the signs of a bar mean."""
    held, promised, free = (HELD, PROMISED, FREE) if ascii_only else ("█", "▓", "░")
    return f"{held} held by running requests   {promised} reserved for what they will still write   {free} headroom"
