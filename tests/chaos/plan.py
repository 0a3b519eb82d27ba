"""What happens in one run, drawn from a seed: requests with their faults, and clients with their moods."""

from __future__ import annotations

from random import Random

from tests.chaos.case import Case, How, Leave
from tests.chaos.table import HELD, ILL, NEVER, SILENT, TABLE, WELL

GOOD_SHARE = 0.3
LEAVE_SHARE = 0.2
MORTAL_SHARE = 0.05
SILENT_SHARE = 0.02
LARGE_SHARE, LARGE_BYTES = 0.03, 70_000
"""Of the faults with a body that leaves the gateway in more than one piece."""
QUEUE_SHARE = 0.03
"""Of the requests there is an episode in the queue, of `QUEUE_CASES` requests."""
QUEUE_CASES = 6
NARROW_TOKENS = 40
"""Of an answer: two such requests do not fit together into the narrow backend."""

_LEAVES = (
    (Leave.UPLOADING, "good"),
    (Leave.AT_ONCE, "good"),
    (Leave.AT_ONCE, "held before head"),
    (Leave.ASKED, "held before head"),
    (Leave.HEAD, "held after head"),
    (Leave.MIDSTREAM, "held in stream"),
    (Leave.MIDSTREAM, "flowing"),
    (Leave.UNREAD, "flood"),
)
_STREAMED_ONLY = frozenset(name for name, fault in TABLE.items() if fault.whole == NEVER and name not in HELD)


def drawn(chance: Random, count: int) -> list[Case]:
    """So many single requests; each fault is met once before any is drawn at random."""
    faults = [(name, stream) for name in (*WELL, *ILL, *SILENT) for stream in (True, False)]
    faults = [(name, stream) for name, stream in faults if stream or name not in _STREAMED_ONLY]
    leaves = [(leave, fault, how) for leave, fault in _LEAVES for how in How]
    cases = []
    for number in range(count):
        if number < len(faults):
            name, stream = faults[number]
            cases.append(Case(number, name, stream, TABLE[name].model))
        elif number < len(faults) + len(leaves):
            cases.append(_leaving(chance, number, *leaves[number - len(faults)]))
        else:
            cases.append(_random(chance, number))
    chance.shuffle(cases)
    return cases


def queued(chance: Random, first: int) -> tuple[Case, list[Case], Case, Case]:
    """An episode: who holds the narrow backend, who leaves the queue, who leaves as its turn comes, and who stays."""
    holder = Case(first, "held till told", stream=True, model="narrow", max_tokens=NARROW_TOKENS)
    waiting = [
        Case(
            first + 1 + i,
            "held before head" if i < QUEUE_CASES - 2 else "good",
            chance.random() < 0.5,
            "narrow",
            Leave.QUEUED if i < QUEUE_CASES - 3 else Leave.GRANTED if i == QUEUE_CASES - 3 else Leave.NEVER,
            chance.choice(list(How)),
            NARROW_TOKENS,
        )
        for i in range(QUEUE_CASES - 1)
    ]
    return holder, waiting[:-2], waiting[-2], waiting[-1]


def _random(chance: Random, number: int) -> Case:
    roll = chance.random()
    stream = chance.random() < 0.6
    if roll < LEAVE_SHARE:
        return _leaving(chance, number, *chance.choice(_LEAVES), chance.choice(list(How)))
    roll -= LEAVE_SHARE
    if roll < MORTAL_SHARE:
        return Case(number, "slow and spread", stream, "mortal")
    roll -= MORTAL_SHARE
    if roll < SILENT_SHARE:
        name = chance.choice(list(SILENT))
        return Case(number, name, stream, TABLE[name].model)
    if roll < SILENT_SHARE + GOOD_SHARE:
        return Case(number, "good", stream)
    name = chance.choice([*WELL, *ILL])
    slowly = name == "flood" and chance.random() < 0.3
    size = LARGE_BYTES if chance.random() < LARGE_SHARE else 0
    return Case(number, name, stream or name in _STREAMED_ONLY, reads_slowly=slowly, blank_bytes=size)


def _leaving(chance: Random, number: int, leave: Leave, fault: str, how: How) -> Case:
    stream = leave in (Leave.MIDSTREAM, Leave.UNREAD) or chance.random() < 0.5
    # Whoever half closes reads on to an end, and a body half sent has none but the gateway's patience with it.
    if leave is Leave.UPLOADING and how is How.HALF:
        how = How.CLOSE
    return Case(number, fault, stream, leave=leave, how=how)
