"""Sizes of requests on a pool."""

from dataclasses import replace

from hypothesis import given, strategies as st

from estimator.output_length import OutputLengths
from gateway.admission import fit
from gateway.domain import UNLIMITED, Capacity
from tests.admission.words import BLOCK, capacity, ticket

CAPACITIES = st.builds(capacity, st.integers(1, 60), sequence_tokens_max=st.sampled_from([1, 100, 500, UNLIMITED]))


@given(CAPACITIES, st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 5))
def test_the_largest_output_fits_and_one_more_does_not(pool: Capacity, prompt: int, output: int, n: int) -> None:
    """And what does not fit exceeds the limit that is named, by the need that is named."""
    arrival = ticket(1, (prompt + output) / BLOCK, output=output, n=n)
    largest = fit.largest_output(pool, arrival)
    assert fit.could_fit(pool, arrival) == (output <= largest)
    if largest >= 1:
        assert fit.could_fit(pool, fit.cut(arrival, largest))
    assert not fit.could_fit(pool, replace(arrival, max_tokens=max(1, largest + 1)))
    if not fit.could_fit(pool, arrival):
        need, limit = fit.excess(pool, arrival)
        assert need > limit


def test_need_is_bounded_and_most_is_expected() -> None:
    """Reserved by the prompt's bound; refused for good by its expected length only."""
    arrival = ticket(1, 4, output=16, n=2, expected=16)
    assert fit.need_blocks(capacity(), arrival, 0.01) == 8
    assert fit.expected_prompts(arrival) == (16,)
    assert fit.most_blocks(capacity(), arrival) == fit.first_blocks(capacity(), arrival) == 4
    assert fit.blocks_at(capacity(), arrival, 0) == 6


def test_where_overflow_is_fatal_the_clients_own_limit_is_reserved() -> None:
    """No forecast is trusted there, where there is a limit."""
    fatal = replace(capacity(), overflow_is_fatal=True)
    short = OutputLengths()
    for _ in range(2000):
        short.learn(10, ended=True)
    bounded = ticket(1, 40, output=480, forecast=short.forecast())
    assert fit.need_blocks(fatal, bounded, 0.5) == 40
    assert fit.need_blocks(capacity(), bounded, 0.5) < 20
    assert fit.need_blocks(fatal, replace(bounded, max_tokens=None), 0.5) < 20


def test_an_estimate_refuses_nobody_for_good() -> None:
    """A prompt whose length is guessed counts with what it has for certain, where the answer would be a final no."""
    arrival = ticket(1, 41, output=BLOCK, expected=39 * BLOCK)
    guessed = replace(arrival, demand=replace(arrival.demand, prompt_tokens_least=BLOCK))
    assert fit.could_fit(capacity(4), guessed)
    assert fit.first_blocks(capacity(4), guessed) == 2
    assert not fit.could_fit(capacity(1), guessed)
    assert not fit.could_fit(capacity(4), arrival)


def test_embeddings_generate_nothing() -> None:
    """Not even a first token."""
    arrival = ticket(1, 2, output=0)
    assert fit.first_blocks(capacity(), arrival) == fit.most_blocks(capacity(), arrival) == 2


def test_the_longest_sequence_is_the_smaller_of_two_limits() -> None:
    """Pool and engine."""
    assert fit.takes_tokens(capacity(10)) == 160
    assert fit.takes_tokens(capacity(10, sequence_tokens_max=100)) == 100


def test_cut_never_makes_an_answer_longer() -> None:
    """The hard end may have been nearer than the client's bound."""
    arrival = fit.cut(ticket(1, 4, output=16), 100)
    assert (arrival.demand.output_tokens_max, arrival.max_tokens, arrival.clamped) == (16, 100, True)


@given(CAPACITIES, st.integers(1, 1000), st.integers(0, 1000), st.integers(1, 5), st.booleans())
def test_a_size_is_what_its_parts_say(pool: Capacity, prompt: int, output: int, n: int, bounded: bool) -> None:
    """Reckoned in one go."""
    arrival = ticket(1, (prompt + output) / BLOCK, output=output, n=n, bounded=bounded)
    size = fit.size_of(pool, arrival)
    assert size.fits == fit.could_fit(pool, arrival)
    assert fit.first_blocks(pool, arrival) <= size.most == fit.most_growth(pool, arrival)
    assert size.steps == max(1.0, arrival.demand.output.mean(cap=output))
