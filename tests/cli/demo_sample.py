"""A good run of the demo, made up: tests spoil one thing at a time."""

from gateway.cli.demo_report import Report
from gateway.cli.demo_state import Line, Pool, State
from gateway.cli.demo_story import Phase, Refused, Sent

REFUSED = Refused(429, "queue_full", "3", "The queue is full: 400 tokens are needed, 80 of 4,096 are free.")


def pool(name: str = "large", *, held: int = 0, reserved: int = 0, headroom: int = 4096, requests: int = 0) -> Pool:
    """A pool of 4,096 tokens, empty unless told otherwise."""
    return Pool(
        name=name,
        capacity_tokens=4096,
        resident_tokens=held,
        reserved_tokens=reserved,
        draining_tokens=0,
        foreign_tokens=0,
        headroom_tokens=headroom,
        requests=requests,
    )


def state(*pools: Pool, queued: int = 0) -> State:
    """The gateway's state with these pools, or with one empty one."""
    return State(backends=pools or (pool(),), queues=(Line(depth=queued),) if queued else (), queue_requests_max=24)


def answered(phase: Phase, *, streamed: bool = True, queued_s: float = 0.0, retries: int = 0) -> Sent:
    """A request that was admitted and answered in full."""
    return Sent(
        phase,
        streamed,
        decision="admitted_after_wait" if queued_s else "admitted",
        queued_s=queued_s,
        retries=retries,
        pieces=40 if streamed else 1,
        text="Once upon a time",
        took_s=1.0 + queued_s,
        complete=True,
    )


def good_run() -> list[Sent]:
    """At least one request of each kind that the demo promises."""
    return [
        answered(Phase.CALM),
        answered(Phase.CALM, streamed=False),
        answered(Phase.BURST),
        answered(Phase.BURST, queued_s=2.5),
        Sent(Phase.BURST, streamed=True, refused=REFUSED, took_s=0.012),
        answered(Phase.RETRY, retries=1),
    ]


def report(sent: list[Sent], state_: State | None = None, **preemptions: int) -> Report:
    """The report of a run; without preemptions given, the engine had none."""
    return Report(tuple(sent), state_ or state(), preemptions or {"large": 0}, recovery_s=0.2)
