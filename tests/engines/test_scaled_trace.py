"""A trace made small: lengths, arrivals, and prompts that spell the length of their answers."""

import random

import pytest
from hypothesis import given, settings, strategies as st

from benchmarks.scaled_trace import Scale, first_of, held_tokens, prompt_ids, spelt_output_tokens
from gateway.simulation.workload import Request, read_trace

CONTEXT_TOKENS = 512
HEAD = "arrival_s,prompt_tokens,output_tokens"


@settings(deadline=None)
@given(st.integers(1, 200_000), st.integers(1, 200_000), st.floats(0.5, 100), st.floats(0.5, 100), st.integers(0, 99))
def test_any_request_fits_and_its_prompt_spells_its_answer(
    prompt_tokens: int, output_tokens: int, prompt_divisor: float, output_divisor: float, seed: int
) -> None:
    """Prompt and answer fit, `max_tokens` is never less than the answer, and the engine can read how long that gets."""
    trace = read_trace([HEAD, f"5,{prompt_tokens},{output_tokens}"])
    (request,) = Scale(prompt_divisor, output_divisor, CONTEXT_TOKENS).requests(trace, seed)
    assert request.arrives_s == 0
    assert request.output_tokens >= 1
    assert request.max_tokens is not None
    assert request.output_tokens <= request.max_tokens <= CONTEXT_TOKENS - request.prompt_tokens
    prompt = prompt_ids(request, random.Random(seed))
    assert len(prompt) == request.prompt_tokens
    assert spelt_output_tokens(prompt) == request.output_tokens


def test_lengths_are_divided() -> None:
    """Prompts and answers each by their own, and rounded."""
    trace = read_trace([HEAD, "1,1600,200", "3,330,61"])
    requests = Scale(16, 2, CONTEXT_TOKENS).requests(trace, seed=1)
    assert [(each.arrives_s, each.prompt_tokens, each.output_tokens) for each in requests] == [
        (0, 100, 100),
        (2, 21, 30),
    ]


def test_max_tokens_tells_little_of_the_length() -> None:
    """A quarter of the clients ask for the next power of two, the others for all the room there is."""
    trace = read_trace([HEAD, *(f"{second},12,64" for second in range(1000))])
    asked = [each.max_tokens for each in Scale(1, 1, CONTEXT_TOKENS).requests(trace, seed=1)]
    assert set(asked) == {128, 500}
    assert 200 < asked.count(128) < 300


def test_takes_as_many_as_come_in_the_time() -> None:
    """Four requests in 2 s: the first four, and twice as far apart from each other where they were so."""
    first = first_of([Request(at, 10, 10) for at in (0.0, 0.0, 2.0, 4.0, 100.0)], 2.0, 2.0)
    assert [each.arrives_s for each in first] == pytest.approx([0.0, 0.0, 0.75, 1.5])


def test_a_short_trace_is_refused() -> None:
    """More requests than there are cannot be sent."""
    with pytest.raises(ValueError, match="has 2 requests, and 10 are needed"):
        first_of([Request(0.0, 1, 1), Request(1.0, 1, 1)], 1.0, 10.0)


def test_a_request_holds_half_of_its_answer_on_average() -> None:
    """And half a block that is not yet full."""
    assert held_tokens(Request(0.0, 100, 60), block_tokens=32) == 100 + 30 + 16
