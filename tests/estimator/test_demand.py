"""From what a request looks like to what it will hold, and back from how it ended."""

import random

import pytest
from hypothesis import given, settings, strategies as st

from estimator.demand import DemandModel, End, Shape
from estimator.output_length import LENGTH_MAX

CONTEXT = 8192
SHAPES = st.builds(
    Shape,
    text_bytes=st.integers(0, 10**6),
    messages=st.integers(0, 50),
    images=st.integers(0, 5),
    token_prompts=st.one_of(st.just(()), st.lists(st.integers(1, 9000), min_size=1, max_size=4).map(tuple)),
    prompts=st.integers(1, 4),
    n=st.integers(1, 8),
    max_tokens=st.one_of(st.none(), st.integers(0, 10**5)),
    output=st.booleans(),
    counted_tokens=st.one_of(st.none(), st.integers(0, 9000)),
)


@given(SHAPES, st.floats(0, 1), st.floats(0, 1), st.integers(0, 10_000))
@settings(deadline=None)
def test_output_bounds_are_ordered_and_within_the_cap(shape: Shape, a: float, b: float, generated: int) -> None:
    """Less risk reserves more; a bound is beyond what is there and within the hard end, unless that is reached."""
    demand = DemandModel().estimate(shape, context_tokens=CONTEXT)
    careful, bold = sorted((a, b))
    bound = demand.output_bound(careful, generated)
    assert demand.output_bound(bold, generated) <= bound
    if generated >= demand.output_tokens_max:
        assert bound == generated
    else:
        assert generated + 1 <= bound <= demand.output_tokens_max
        assert demand.output_bound(0, generated) == demand.output_tokens_max


@given(SHAPES)
@settings(deadline=None)
def test_prompt_and_output_end_with_the_context(shape: Shape) -> None:
    """Only an exact prompt may exceed the context; then the request can be refused with its true length."""
    demand = DemandModel().estimate(shape, context_tokens=CONTEXT)
    exact = bool(shape.token_prompts) or shape.counted_tokens is not None
    if not exact:
        assert max(demand.prompts) + demand.output_tokens_max <= CONTEXT
    assert demand.sequences == shape.n * len(demand.prompts)
    assert demand.prompt_tokens <= sum(demand.prompts)
    assert (demand.output_tokens_max > 0) == shape.output
    if shape.max_tokens:
        assert demand.output_tokens_max <= max(1, shape.max_tokens)


def test_token_prompts_are_exact() -> None:
    """Lengths of token arrays are what they are."""
    demand = DemandModel().estimate(Shape(0, token_prompts=(7, 9000), n=2), context_tokens=CONTEXT)
    assert demand.prompts == (7, 9000)
    assert demand.prompt_tokens == 9007
    assert demand.sequences == 4
    assert demand.output_tokens_max == 1


def test_a_tokenizers_count_is_exact() -> None:
    """A count goes before the estimate, shared out over the prompts in whole tokens."""
    demand = DemandModel().estimate(Shape(10_000, counted_tokens=101, prompts=2), context_tokens=CONTEXT)
    assert demand.prompts == (51, 51)
    assert demand.prompt_tokens == 101


def test_an_estimate_alone_never_makes_a_prompt_too_long() -> None:
    """A megabyte of text is bounded by the context less one token of output."""
    demand = DemandModel().estimate(Shape(10**6), context_tokens=CONTEXT)
    assert demand.prompts == (CONTEXT - 1,)
    assert demand.output_tokens_max == 1
    embedding = DemandModel().estimate(Shape(10**6, output=False), context_tokens=CONTEXT)
    assert embedding.prompts == (CONTEXT,)
    assert embedding.output_bound(0) == 0


def test_without_max_tokens_the_context_is_the_end() -> None:
    """An engine that names no context leaves the end open."""
    demand = DemandModel().estimate(Shape(0, token_prompts=(100,)), context_tokens=CONTEXT)
    assert demand.output_tokens_max == CONTEXT - 100
    assert DemandModel().estimate(Shape(0, token_prompts=(100,)), context_tokens=LENGTH_MAX).output_bound(0) > 10**18


def test_a_model_learns_prompts_and_outputs() -> None:
    """After 500 answers the bounds fit the service: far below the cold start's, above what comes."""
    rng = random.Random(7)
    model = DemandModel()
    shape = Shape(4000, messages=4, max_tokens=4000)
    cold = model.estimate(shape, context_tokens=CONTEXT)
    for _ in range(500):
        model.learn(shape, prompt_tokens=rng.randint(900, 1100), output_tokens=rng.randint(100, 300), end=End.STOP)
    warm = model.estimate(shape, context_tokens=CONTEXT)
    assert warm.prompt_tokens == pytest.approx(1000, rel=0.02)
    assert 1100 <= warm.prompts[0] < cold.prompts[0]
    assert 280 <= warm.output_bound(0.05) <= 350 < cold.output_bound(0.05)


@pytest.mark.parametrize("end", [End.LENGTH, End.CUT])
def test_answers_cut_off_count_as_longer(end: End) -> None:
    """100 answers cut at 50 tokens say that answers exceed 50 tokens, and nothing more."""
    model = DemandModel()
    for _ in range(100):
        model.learn(Shape(100), prompt_tokens=None, output_tokens=50, end=end)
    demand = model.estimate(Shape(100), context_tokens=CONTEXT)
    assert demand.output.survival(48) > 0.99
    assert demand.output.quantile(0.5) > 900


def test_sequences_of_one_request_are_learnt_as_their_mean() -> None:
    """Usage sums them: n = 4 and two prompts with 800 tokens in all are 100 each."""
    model = DemandModel()
    shape = Shape(0, token_prompts=(10, 10), n=4)
    for _ in range(300):
        model.learn(shape, prompt_tokens=20, output_tokens=800, end=End.STOP)
    demand = model.estimate(shape, context_tokens=CONTEXT)
    assert 90 <= demand.output_bound(0.2) <= 110
    assert model.output_lengths.learnt == 300


def test_nothing_is_learnt_from_what_was_not_said() -> None:
    """No usage, token prompts and embeddings leave the parts alone that they say nothing about."""
    model = DemandModel()
    model.learn(Shape(100), prompt_tokens=None, output_tokens=None, end=End.CUT)
    model.learn(Shape(0, token_prompts=(5,)), prompt_tokens=5, output_tokens=None, end=End.STOP)
    model.learn(Shape(400, output=False), prompt_tokens=None, output_tokens=0, end=End.STOP)
    assert model.output_lengths.learnt == 0
    assert model.prompt_lengths.relative_error == pytest.approx(0.3)


def test_what_a_prompt_has_for_certain() -> None:
    """All of an exact one; of a guessed one half of its text, and nothing of its images."""
    model = DemandModel()
    assert model.estimate(Shape(0, token_prompts=(7,)), context_tokens=100).prompt_tokens_least is None
    text = model.estimate(Shape(400, messages=1), context_tokens=10_000)
    seen = model.estimate(Shape(400, messages=1, images=2), context_tokens=10_000)
    assert text.prompt_tokens_least is not None
    assert 0 < text.prompt_tokens_least <= text.prompt_tokens / 2
    assert seen.prompt_tokens_least == text.prompt_tokens_least
    assert seen.prompt_tokens > text.prompt_tokens


@pytest.mark.parametrize("shape", [Shape(400), Shape(400, max_tokens=7), Shape(400, output=False)])
def test_several_bounds_are_those_that_each_risk_has(shape: Shape) -> None:
    """The hard end for none, and nothing where there is no output."""
    demand = DemandModel().estimate(shape, context_tokens=5_000)
    risks = (0.5, 0.1, 0.01, 0.0)
    assert demand.output_bounds(*risks) == [demand.output_bound(risk) for risk in risks]
