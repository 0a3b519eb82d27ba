"""How many tokens a prompt is: coverage of the bound, cost of it, and steadiness."""

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from estimator.prompt_length import PromptLengths, Terms


def chat(rng: random.Random, rate: float, noise: float) -> tuple[Terms, int]:
    """A chat request and the tokens that its engine counts."""
    messages = rng.randint(1, 8)
    text_bytes = round(rng.lognormvariate(7, 1))
    tokens = text_bytes * rate * rng.gauss(1, noise) + 5 * messages + 20
    return (text_bytes, messages, 1, 0), max(1, round(tokens))


@given(st.floats(0.15, 1.0), st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_the_bound_covers_and_does_not_waste(rate: float, seed: int) -> None:
    """With 10 % noise, after 300 requests: at least 97 % of prompts are within the bound, 35 % too much at most."""
    rng = random.Random(seed)
    lengths = PromptLengths()
    for _ in range(300):
        lengths.learn(*chat(rng, rate, 0.1))
    covered, reserved, used = 0, 0, 0
    for _ in range(1000):
        terms, tokens = chat(rng, rate, 0.1)
        bound = lengths.bound(lengths.expected(terms))
        covered += tokens <= bound
        reserved += bound
        used += tokens
        lengths.learn(terms, tokens)
    assert covered >= 970
    assert reserved < 1.35 * used


def test_the_start_is_safe_for_english_code_and_cjk() -> None:
    """Before the first usage: half a token per byte as the bound, 3.5 bytes a token expected."""
    lengths = PromptLengths()
    terms = (10_000, 0, 0, 0)
    assert lengths.expected(terms) == pytest.approx(10_000 / 3.5)
    assert lengths.bound(lengths.expected(terms)) == 5000
    assert lengths.tokens_per_byte == pytest.approx(1 / 3.5)
    assert lengths.relative_error == pytest.approx(0.3)


def test_template_and_images_are_told_apart_from_text() -> None:
    """Learns the tokens of a message, of an image and of a byte from totals alone."""
    rng = random.Random(3)
    lengths = PromptLengths()
    for _ in range(2000):
        terms = (rng.randint(10, 4000), rng.randint(1, 20), 1, rng.choice([0, 0, 1, 3]))
        lengths.learn(terms, round(terms[0] * 0.25 + terms[1] * 9 + 30 + terms[3] * 580))
    assert lengths.expected((1000, 0, 0, 0)) == pytest.approx(250, rel=0.02)
    assert lengths.expected((0, 10, 0, 0)) == pytest.approx(90, rel=0.1)
    assert lengths.expected((0, 0, 0, 1)) == pytest.approx(580, rel=0.03)


def test_a_model_without_images_keeps_the_first_guess_for_them() -> None:
    """Text alone teaches nothing about images."""
    rng = random.Random(4)
    lengths = PromptLengths()
    for _ in range(300):
        lengths.learn(*chat(rng, 0.25, 0.05))
    assert lengths.expected((0, 0, 0, 1)) == pytest.approx(1200, rel=0.01)


def test_a_change_of_language_widens_the_bound_and_then_settles() -> None:
    """From 0.25 to 0.5 tokens a byte: the bound covers the new prompts before the mean has caught up."""
    rng = random.Random(5)
    lengths = PromptLengths()
    for _ in range(1000):
        lengths.learn(*chat(rng, 0.25, 0.05))
    narrow = lengths.relative_error
    for _ in range(100):
        lengths.learn(*chat(rng, 0.5, 0.05))
    assert lengths.relative_error > 2 * narrow
    covered = 0
    for _ in range(200):
        terms, tokens = chat(rng, 0.5, 0.05)
        covered += tokens <= lengths.bound(lengths.expected(terms))
    assert covered >= 190


def test_one_odd_request_does_not_double_the_bound() -> None:
    """A prompt of pure byte tokens counts as 100 % off, however far it was."""
    rng = random.Random(6)
    lengths = PromptLengths()
    for _ in range(500):
        lengths.learn(*chat(rng, 0.25, 0.05))
    before = lengths.bound(1000)
    for _ in range(16):
        lengths.learn(*chat(rng, 0.25, 0.05))
    lengths.learn((1000, 1, 1, 0), 100_000)
    for _ in range(16):
        lengths.learn(*chat(rng, 0.25, 0.05))
    assert before <= lengths.bound(1000) < 1.3 * before


@given(st.lists(st.tuples(st.tuples(*[st.integers(0, 10**7)] * 4), st.integers(-5, 10**7)), max_size=60))
@settings(deadline=None)
def test_any_usage_leaves_sane_rates(answers: list[tuple[Terms, int]]) -> None:
    """Whatever engines claim: bounds are positive, never below what is expected, and grow with the text."""
    lengths = PromptLengths()
    for terms, tokens in answers:
        lengths.learn(terms, tokens)
    small, large = lengths.expected((1000, 1, 1, 0)), lengths.expected((2000, 1, 1, 0))
    assert 0 < small < large < 10**14
    assert lengths.bound(small) >= small
    assert lengths.bound(0) == 1


@pytest.mark.parametrize(("terms", "tokens"), [((900, 2, 1, 0), 250), ((10, 1, 1, 0), 9), ((100_000, 1, 1, 0), 30_000)])
def test_requests_that_are_all_alike_are_learnt_for_ever(terms: Terms, tokens: int) -> None:
    """They say nothing of how bytes, messages and prompts share the tokens; the prior goes on to decide that."""
    lengths = PromptLengths()
    for _ in range(20_000):
        lengths.learn(terms, tokens)
    assert lengths.expected(terms) == pytest.approx(tokens, rel=0.01)
    assert lengths.expected((0, 0, 0, 1)) == pytest.approx(1200, rel=0.01)


@pytest.mark.parametrize("count", [0, 3, 700])
def test_what_is_saved_comes_back(count: int) -> None:
    """The same rates and bound, and the same steps from there."""
    rng = random.Random(5)
    before = PromptLengths()
    for _ in range(count):
        before.learn(*chat(rng, 0.3, 0.1))
    saved = before.evidence()
    before._refresh()
    after = PromptLengths.restored(saved)
    terms = (4000, 3, 1, 1)
    for _ in range(2):
        assert after.expected(terms) == pytest.approx(before.expected(terms))
        assert after.bound(1000) == before.bound(1000)
        lesson = chat(rng, 0.5, 0.1)
        before.learn(*lesson)
        after.learn(*lesson)


@pytest.mark.parametrize(
    "wrong",
    [
        {"moment": (1.0, 1.0)},
        {"moment": (1.0, 1.0, 1.0, math.nan)},
        {"moment": (1e300, 1.0, 1.0, 1.0)},
        {"gram": ((0.0,) * 4,) * 4},
        {"gram": ((-1.0,) * 4,) * 4},
        {"gram": ((1.0,) * 4,) * 3},
        {"rows": 0.0},
        {"rows": math.inf},
        {"error_square_sum": -1.0},
        {"error_square_sum": 1e9},
        {"learnt": -1},
    ],
)
def test_what_cannot_have_been_learned_is_refused(wrong: dict[str, Any]) -> None:
    """Whoever reads a file must not trust it."""
    with pytest.raises(ValueError, match=r"cannot be|four terms|solution"):
        PromptLengths.restored(replace(PromptLengths().evidence(), **wrong))


def test_answers_wait_only_as_long_as_they_change_nothing() -> None:
    """Rates and bound are at each moment those of one who takes in every answer at once."""
    rng = random.Random(6)
    waiting, prompt = PromptLengths(), PromptLengths()
    for _ in range(400):
        terms, tokens = rng.choice([chat(rng, 0.25, 0.2), ((0, 0, 0, 0), 5), ((900, 1, 1, 2), 0)])
        waiting.learn(terms, tokens)
        prompt.learn(terms, tokens)
        prompt.evidence()
        assert waiting.expected((2000, 3, 1, 1)) == pytest.approx(prompt.expected((2000, 3, 1, 1)))
        assert waiting.relative_error == pytest.approx(prompt.relative_error)


def test_old_answers_fade_with_each_new_one() -> None:
    """What is saved, at any moment, is the sum in which each answer has made all before it a little lighter."""
    rng = random.Random(5)
    lengths = PromptLengths()
    fresh = lengths.evidence()
    gram, moment = [list(row) for row in fresh.gram], list(fresh.moment)
    ridge = [0.1 * row[i] / 8 / (500 / math.log(2)) for i, row in enumerate(fresh.gram)]
    rates = [moment[i] / row[i] for i, row in enumerate(fresh.gram)]
    keep = 1 - math.log(2) / 500
    for _ in range(100):
        terms, tokens = chat(rng, 0.25, 0.1)
        scale = 1 / lengths.expected(terms) ** 2
        for i in range(4):
            gram[i] = [cell * keep + scale * terms[i] * terms[j] for j, cell in enumerate(gram[i])]
            gram[i][i] += ridge[i]
            moment[i] = moment[i] * keep + scale * terms[i] * tokens + ridge[i] * rates[i]
        lengths.learn(terms, tokens)
        if rng.random() < 0.3:
            assert lengths.evidence().moment == pytest.approx(moment)
    evidence = lengths.evidence()
    assert evidence.moment == pytest.approx(moment)
    assert [cell for row in evidence.gram for cell in row] == pytest.approx([cell for row in gram for cell in row])
