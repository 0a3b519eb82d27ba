"""Answers are fixed by the request and the seed."""

import dataclasses
import statistics

from gateway.simulation.answers import Choice, choose
from gateway.simulation.requests import Endpoint, Job

JOB = Job(
    endpoint=Endpoint.CHAT,
    prompt_tokens=(10,),
    output_tokens_max=(100_000,),
    output_tokens_min=0,
    n=2000,
    ignore_eos=False,
    stream=False,
    include_usage=False,
    continuous_usage=False,
    tool=None,
)


def lengths(job: Job, body: bytes = b"{}", seed: int = 0) -> list[int]:
    """How long the answers to a job get, around 200 tokens."""
    return [choice.output_tokens for choice in choose(job, body, seed=seed, output_tokens_mean=200)]


def test_same_request_same_answers() -> None:
    """Another body or another seed gives others."""
    assert lengths(JOB) == lengths(JOB)
    assert lengths(JOB) != lengths(JOB, body=b"{ }")
    assert lengths(JOB) != lengths(JOB, seed=-1)


def test_lengths_spread_around_the_mean() -> None:
    """Log-normal: the mean is what was asked for, the median clearly below it."""
    drawn = lengths(JOB)
    assert 180 < statistics.mean(drawn) < 220
    assert statistics.median(drawn) < 0.8 * statistics.mean(drawn)


def test_limit_cuts_and_ignore_eos_fills() -> None:
    """A cut answer ends with `length`, one that ends by itself with `stop`; with ignore_eos all run to the limit."""
    choices = choose(dataclasses.replace(JOB, output_tokens_max=(50,)), b"", seed=0, output_tokens_mean=200)
    assert {choice.finish_reason for choice in choices if choice.output_tokens < 50} == {"stop"}
    assert any(choice.finish_reason == "length" for choice in choices)
    assert max(choice.output_tokens for choice in choices) == 50
    assert set(lengths(dataclasses.replace(JOB, output_tokens_max=(50,), ignore_eos=True))) == {50}


def test_min_tokens_holds() -> None:
    """No answer is shorter than min_tokens."""
    assert min(lengths(dataclasses.replace(JOB, output_tokens_min=150))) == 150


def test_text_in_pieces_is_the_text() -> None:
    """However a stream is cut into chunks, they add up; there is one word per token."""
    choice = Choice(prompt_tokens=1, output_tokens=40, finish_reason="stop", voice=5)
    whole = choice.text(0, 40)
    assert whole == choice.text(0, 7) + choice.text(7, 8) + choice.text(8, 40)
    assert len(whole.split(" ")) == 40
