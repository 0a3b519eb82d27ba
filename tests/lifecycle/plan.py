"""What is going to happen in one run, drawn from a seed: requests with their fates, and what befalls the engines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Literal, get_args

REQUESTS = 70
ENGINES = ("a", "b")
PROVIDER = "c"

Fate = Literal[
    "",
    "refused",
    "unconnected",
    "closed_at_once",
    "reset_before_head",
    "closed_before_head",
    "silent_before_head",
    "cut_in_head",
    "garbage",
    "status_400",
    "status_429",
    "status_500",
    "status_503",
    "redirected",
    "wrong_type",
    "reset_after_head",
    "closed_after_head",
    "silent_after_head",
    "error_first",
    "reset",
    "closed",
    "silent",
    "bad_chunk",
    "no_event",
    "error_event",
    "early_end",
    "talks_on",
    "reset_after_done",
    "silent_after_done",
    "connection_dies_later",
]
"""What goes wrong with a request at its engine, in the order of its life."""
FATES: tuple[Fate, ...] = get_args(Fate)
Leaves = Literal[
    "", "later", "queued", "granted", "turned_away", "connecting", "asked", "begun", "reading", "ending", "after"
]
"""When a client leaves: after a while; as soon as it stands in line; in the very tick of the grant, or of the refusal;
while a connection is made; when the engine has the request; with the first bytes; in mid-stream; with the last bytes;
right after, which is no leaving any more."""
LEAVES: tuple[Leaves, ...] = get_args(Leaves)
Manner = Literal["cancelled", "connection_error", "bug", "stuck"]
"""How: its handler is cancelled; a write fails; our own code fails there; it takes nothing any more."""
Act = Literal[
    "restart",
    "freeze",
    "stranger",
    "telemetry",
    "drain",
    "resume",
    "remove",
    "add",
    "change",
    "limits",
    "busy",
    "shut_down",
]
Page = Literal["honest", "late", "too_late", "frozen", "garbage", "nan", "status_500", "silent", "reset", "zero"]
PAGES: tuple[Page, ...] = get_args(Page)


@dataclass(frozen=True, slots=True)
class Script:
    """One request, and all that will go wrong with it."""

    number: int
    at_s: float
    stream: bool = True
    prompt_words: int = 20
    second_prompt_words: int = 0
    """Of a completion that has two prompts."""
    output_tokens: int = 20
    """What the engine would generate of each sequence if nothing bounded it."""
    max_tokens: int | None = 64
    sequences: int = 1
    chat: bool = False
    tenant: str = "x"
    kv_share: float = 1.0
    priority: int = 0
    patience_s: float | None = None
    fate: Fate = ""
    fate_tokens: int = 3
    """Tokens before it strikes, where it strikes in mid-stream."""
    every_attempt: bool = False
    """It strikes at the second backend too."""
    leaves: Leaves = ""
    manner: Manner = "cancelled"
    leaves_after: float = 0.0
    """Seconds for `later`, writes for `reading`."""
    slow: bool = False
    """It takes little at a time."""
    haunts_s: float = 0.0
    """So long its sequences run on after it has left."""

    @property
    def name(self) -> str:
        """Its request id."""
        return f"r-{self.number}"


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that befalls a backend or the gateway as a whole."""

    at_s: float
    act: Act
    backend: str = ""
    value: float = 0.0
    page: Page = "honest"


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    seed: int
    scripts: tuple[Script, ...]
    happenings: tuple[Happening, ...]
    blocks: tuple[int, int] = (80, 80)
    queue_requests_max: int = 20
    risk: float = 0.01
    provider: bool = False
    clamp: bool = False
    observe: bool = False

    @property
    def is_honest(self) -> bool:
        """Whether telemetry never lies: then what runs in an engine must be accounted."""
        return not self.observe and all(
            happening.page in ("honest", "late") and happening.act in HONEST_ACTS for happening in self.happenings
        )

    def without(self, scripts: frozenset[int], happenings: frozenset[int]) -> Plan:
        """The same but for these, by number and by place."""
        return replace(
            self,
            scripts=tuple(script for script in self.scripts if script.number not in scripts),
            happenings=tuple(h for place, h in enumerate(self.happenings) if place not in happenings),
        )


HONEST_ACTS: tuple[Act, ...] = ("drain", "resume", "telemetry", "busy", "stranger", "freeze")
"""Those that leave the books and the engine talking of the same memory."""
ACTS: tuple[Act, ...] = (
    *("restart", "freeze", "stranger", "telemetry", "telemetry"),
    *("drain", "resume", "remove", "add", "change", "limits", "busy"),
)
STRIKING: tuple[Fate, ...] = tuple(fate for fate in FATES if fate)


def drawn(seed: int, *, harsh: bool = False) -> Plan:
    """The plan of a seed; a harsh one is full of faults."""
    random = Random(seed)
    faults, leaving = random.choice((0.0, 0.1, 0.4)), random.choice((0.0, 0.2, 0.6))
    if harsh:
        faults, leaving = 0.4, 0.6
    span_s = random.choice((4.0, 10.0, 25.0))
    scripts = sorted((_script(random, span_s, faults, leaving) for _ in range(REQUESTS)), key=lambda s: s.at_s)
    acts = random.choice((HONEST_ACTS, ACTS, ACTS))
    happenings = [_happening(random, acts, span_s) for _ in range(random.choice((0, 2, 5, 10)))]
    happenings.sort(key=lambda happening: happening.at_s)
    shuts = random.random() < 0.15
    if shuts:
        happenings.append(Happening(random.uniform(0.5, 1.0) * span_s, "shut_down"))
    return Plan(
        seed,
        tuple(replace(script, number=number) for number, script in enumerate(scripts)),
        tuple(happenings),
        blocks=(random.choice((40, 60, 120)), random.choice((40, 80, 200))),
        queue_requests_max=random.choice((0, 3, 20, 100)),
        risk=random.choice((0.001, 0.01, 0.2)),
        provider=random.random() < 0.2 or harsh,
        clamp=random.random() < 0.2,
        observe=random.random() < 0.1,
    )


def _script(random: Random, span_s: float, faults: float, leaving: float) -> Script:
    output = random.choices((1, 3, 12, 25, 60, 140, 450), (6, 6, 6, 6, 6, 6, 1))[0]
    return Script(
        number=0,
        at_s=random.choice((random.uniform(0, span_s), random.randrange(4) * span_s / 4)),
        stream=random.random() < 0.75,
        prompt_words=random.choice((1, 10, 60, 200, 900)),
        second_prompt_words=random.choice((0, 0, 0, 0, 100)),
        output_tokens=output,
        max_tokens=random.choice((None, 8, 64, 150, output)),
        sequences=random.choice((1, 1, 1, 1, 2, 3)),
        chat=random.random() < 0.3,
        tenant=random.choice("xyz"),
        kv_share=random.choice((0.3, 1.0)),
        priority=random.randrange(3),
        patience_s=random.choice((None, None, 0.5, 3.0)),
        fate=random.choice(STRIKING) if random.random() < faults else "",
        fate_tokens=random.choice((1, 2, 7, 30)),
        every_attempt=random.random() < 0.3,
        leaves=random.choice(LEAVES[1:]) if random.random() < leaving else "",
        manner=random.choice(("cancelled", "cancelled", "cancelled", "connection_error", "bug", "stuck")),
        leaves_after=random.choice((0.0, 1.0, 2.0, random.uniform(0, 4))),
        slow=random.random() < 0.1,
        haunts_s=random.choice((0.0, 0.0, 0.0, 0.3, 3.0, 25.0)),
    )


def _happening(random: Random, acts: tuple[Act, ...], span_s: float) -> Happening:
    act = random.choice(acts)
    return Happening(
        at_s=random.uniform(0, span_s),
        act=act,
        backend=random.choice(ENGINES),
        value=random.choice((0.0, 0.2, 2.0, 8.0)),
        page=random.choice(PAGES if acts is ACTS else PAGES[:2]) if act == "telemetry" else "honest",
    )
