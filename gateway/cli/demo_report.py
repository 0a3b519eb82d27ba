"""What a run of the demo showed: in numbers, in words, and what it had promised but did not show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from gateway.cli.demo_state import State
from gateway.cli.demo_story import Counts, Phase, Refused, Sent, count
from gateway.cli.demo_table import verbatim

TOO_MANY_REQUESTS = 429
RETRY_AFTER_MAX_S = 60
WAITED_IN_VAIN = "queue_timeout"
TEXT_SHOWN_MAX = 60


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known at the end."""

    sent: tuple[Sent, ...]
    state: State
    preemptions: Mapping[str, int]
    """Per engine, by its own count."""
    recovery_s: float

    def of(self, phase: Phase) -> list[Sent]:
        """Requests of one phase."""
        return [one for one in self.sent if one.phase is phase]

    @property
    def refusals(self) -> list[Refused]:
        """All refusals of the burst."""
        return [one.refused for one in self.of(Phase.BURST) if one.refused is not None]

    @property
    def retried(self) -> list[Sent]:
        """Requests that were refused, sent again by their client, and then answered in full."""
        return [one for one in self.of(Phase.RETRY) if one.retries and one.complete]

    @property
    def counts(self) -> Counts:
        """Over all phases."""
        return count(self.sent)


def not_shown(report: Report) -> list[str]:
    """What the demo promised and this run did not show; empty if all is well."""
    return [*_not_served(report), *_not_refused(report), *_not_recovered(report)]


def _not_served(report: Report) -> Iterator[str]:
    calm, burst = report.of(Phase.CALM), report.of(Phase.BURST)
    if any(one.decision != "admitted" for one in calm):
        yield "a calm request was not admitted at once"
    if not all(one.complete for one in calm):
        yield "a calm request was not answered in full"
    if not all(any(one.streamed is streamed and one.complete for one in calm) for streamed in (True, False)):
        yield "no plain or no streamed answer arrived"
    if any(one.streamed and one.complete and one.pieces < 2 for one in report.sent):
        yield "a streamed answer came in one piece"
    if not any(one.decision == "admitted_after_wait" and one.complete for one in burst):
        yield "no request of the burst waited and was then answered"
    for one in report.sent:
        if one.fault:
            yield f"a request was lost: {one.fault}"


def _not_refused(report: Report) -> Iterator[str]:
    refusals = report.refusals
    if not refusals:
        yield "no request of the burst was refused"
    elif all(refused.code == WAITED_IN_VAIN for refused in refusals):
        yield "no refusal came at once"
    for refused in refusals:
        wait_is_told = refused.retry_after.isdigit() and 1 <= int(refused.retry_after) <= RETRY_AFTER_MAX_S
        has_numbers = any(character.isdigit() for character in refused.message)
        if refused.status != TOO_MANY_REQUESTS or not wait_is_told or not has_numbers:
            yield f"a refusal lacks its status, its Retry-After or its numbers: {verbatim(refused)}"
    if not report.retried:
        yield "no client that retries was refused at first and then got through"


def _not_recovered(report: Report) -> Iterator[str]:
    for engine, preemptions in report.preemptions.items():
        if preemptions:
            yield f"engine '{engine}' preempted {preemptions} times"
    if report.state.queued:
        yield f"{report.state.queued} requests still wait"
    for pool in report.state.backends:
        if not pool.is_whole:
            booked = f"{pool.reserved_tokens:,} reserved, {pool.headroom_tokens:,} of {pool.capacity_tokens:,} free"
            yield f"the memory of '{pool.name}' did not come back: {booked}"


def summary(report: Report) -> dict[str, str]:
    """What was shown: a sentence for each part of it."""
    calm, burst = count(report.of(Phase.CALM)), count(report.of(Phase.BURST))
    longest_s = max((one.queued_s for one in report.of(Phase.BURST)), default=0.0)
    retries, retried = len(report.of(Phase.RETRY)), len(report.retried)
    capacity = sum(pool.capacity_tokens for pool in report.state.backends)
    headroom = sum(pool.headroom_tokens for pool in report.state.backends)
    return {
        "calm": f"{calm.done} of {calm.sent} answered.{_example(report)}",
        "burst": f"{burst.sent} requests: {burst.at_once} admitted at once, {burst.waited} after waiting "
        f"(up to {longest_s:.1f} s), {burst.refused} refused{_quickest(report)}.",
        "refused": verbatim(report.refusals[0]) if report.refusals else "Nobody was.",
        "retry": f"{retries} more came from clients that retry. {retried} of them were refused at first, came back "
        "when they had been told to, and had their whole answer then.",
        "engines": f"{sum(report.preemptions.values())} preemptions, {report.counts.lost} requests lost.",
        "recovery": f"{headroom:,} of {capacity:,} tokens are headroom again, {report.state.queued} requests wait "
        f"({report.recovery_s:.1f} s after the last answer).",
    }


def _example(report: Report) -> str:
    streamed = next((one for one in report.of(Phase.CALM) if one.streamed and one.complete), None)
    if streamed is None:
        return ""
    text = streamed.text if len(streamed.text) <= TEXT_SHOWN_MAX else streamed.text[:TEXT_SHOWN_MAX].rstrip() + " ..."
    return f' One came as {streamed.pieces} pieces: "{text}"'


def _quickest(report: Report) -> str:
    took_s = [one.took_s for one in report.of(Phase.BURST) if one.refused]
    return f" (the quickest in {min(took_s) * 1000:.0f} ms)" if took_s else ""


def as_json(report: Report, missing: Sequence[str]) -> dict[str, object]:
    """The same for programs."""
    return {
        "counts": asdict(report.counts),
        "phases": {phase.value: asdict(count(report.of(phase))) for phase in Phase},
        "refusal": asdict(report.refusals[0]) if report.refusals else None,
        "retried": len(report.retried),
        "preemptions": dict(report.preemptions),
        "kv_headroom_tokens": {pool.name: pool.headroom_tokens for pool in report.state.backends},
        "kv_capacity_tokens": {pool.name: pool.capacity_tokens for pool in report.state.backends},
        "not_shown": list(missing),
    }
