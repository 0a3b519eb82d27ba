"""A run that shows less than was promised is told from one that shows all."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.cli.demo_report import Report, as_json, not_shown, summary
from gateway.cli.demo_story import Phase, Sent
from tests.cli.demo_sample import REFUSED, answered, good_run, pool, report, state


def without(test: Callable[[Sent], object]) -> list[Sent]:
    """The good run without some of its requests."""
    return [one for one in good_run() if not test(one)]


def refusing(**changes: object) -> list[Sent]:
    """The good run, its refusal changed."""
    bad = replace(REFUSED, **changes)  # type: ignore[arg-type]  # each test names one field and its type
    return [*without(lambda one: one.refused), Sent(Phase.BURST, streamed=True, refused=bad, took_s=0.01)]


CUT = Sent(Phase.BURST, streamed=True, decision="admitted", fault="the answer has no end")
BUSY = pool(reserved=400, headroom=3600, requests=1)
SPOILED = [
    (report([one for one in good_run() if one.phase is not Phase.CALM]), "no plain or no streamed"),
    (report([*good_run(), answered(Phase.CALM, queued_s=1)]), "not admitted at once"),
    (report([*good_run(), Sent(Phase.CALM, streamed=True, decision="admitted")]), "not answered in full"),
    (report(without(lambda one: one.phase is Phase.CALM and one.streamed)), "no plain or no streamed"),
    (report([*good_run(), replace(answered(Phase.BURST), pieces=1)]), "came in one piece"),
    (report(without(lambda one: one.queued_s)), "no request of the burst waited"),
    (report([*good_run(), CUT]), "a request was lost: the answer has no end"),
    (report(without(lambda one: one.refused)), "no request of the burst was refused"),
    (report(refusing(code="queue_timeout")), "no refusal came at once"),
    (report(refusing(status=503)), "a refusal lacks"),
    (report(refusing(retry_after="")), "a refusal lacks"),
    (report(refusing(retry_after="61")), "a refusal lacks"),
    (report(refusing(message="No room.")), "a refusal lacks"),
    (report(without(lambda one: one.retries)), "no client that retries"),
    (report(good_run(), small=2), "engine 'small' preempted 2 times"),
    (report(good_run(), state(queued=3)), "3 requests still wait"),
    (report(good_run(), state(BUSY)), "the memory of 'large' did not come back: 400 reserved, 3,600 of 4,096 free"),
]


def test_a_good_run_shows_all() -> None:
    """Nothing is missing, and the summary has the run's numbers and the refusal word for word."""
    good = report(good_run())
    said = summary(good)
    assert not_shown(good) == []
    assert said["calm"] == '2 of 2 answered. One came as 40 pieces: "Once upon a time"'
    assert said["burst"] == (
        "3 requests: 1 admitted at once, 1 after waiting (up to 2.5 s), 1 refused (the quickest in 12 ms)."
    )
    assert REFUSED.message in said["refused"]
    assert "429" in said["refused"]
    assert said["retry"].startswith("1 more came from clients that retry. 1 of them were refused at first")
    assert said["engines"] == "0 preemptions, 0 requests lost."
    assert said["recovery"] == (
        "4,096 of 4,096 tokens are headroom again, 0 requests wait (0.2 s after the last answer)."
    )


@pytest.mark.parametrize(("spoiled", "fault"), SPOILED, ids=[fault for _, fault in SPOILED])
def test_what_is_missing_is_named(spoiled: Report, fault: str) -> None:
    """One thing is wrong with each run, and only this is said."""
    [found] = not_shown(spoiled)
    assert fault in found


def test_a_run_that_showed_nothing_can_be_summed_up() -> None:
    """No sentence needs something to have happened."""
    said = summary(report([]))
    assert said["calm"] == "0 of 0 answered."
    assert said["refused"] == "Nobody was."
    assert len(not_shown(report([]))) >= 4


def test_the_same_for_programs() -> None:
    good = report(good_run())
    told = json.loads(json.dumps(as_json(good, ["x"])))
    assert told["counts"] == {"sent": 6, "at_once": 4, "waited": 1, "refused": 1, "done": 5, "lost": 0}
    assert told["phases"]["burst"]["waited"] == 1
    assert told["refusal"]["code"] == "queue_full"
    assert told["preemptions"] == {"large": 0}
    assert (told["kv_headroom_tokens"], told["retried"], told["not_shown"]) == ({"large": 4096}, 1, ["x"])
    assert as_json(report([]), [])["refusal"] is None
