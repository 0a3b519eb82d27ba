import math

import pytest
from hypothesis import given, settings, strategies as st

from estimator.output_length import LengthHistogram
from gateway.backends.answer_lengths import length_histograms
from gateway.backends.exposition import parse

NAME = b"tokens_bucket"


def histograms(page: str, models: dict[str, str] | None = None) -> dict[str, LengthHistogram]:
    """What is read from lines like `le="10",model_name="m" 4`."""
    lines = "".join(f"tokens_bucket{{{labels}}} {value}\n" for labels, value in (x.split() for x in page.splitlines()))
    return dict(length_histograms(parse(lines.encode(), frozenset({NAME})), NAME, "rank", models or {}))


M = """\
le="10.0",model_name="m" 4
le="1e+02",model_name="m" 5
le="+Inf",model_name="m" 9.0"""


def test_counts_are_taken_apart() -> None:
    """Engines count up to each bound."""
    assert histograms(M) == {"m": LengthHistogram((10.0, 100.0), (4.0, 1.0, 4.0))}


def test_every_public_name_of_a_model_has_its_histogram() -> None:
    """And a model that is not served has none."""
    found = histograms(M + '\nle="+Inf",model_name="other" 1', {"x": "m", "y": "m", "z": "absent"})
    assert found == {name: LengthHistogram((10.0, 100.0), (4.0, 1.0, 4.0)) for name in ("x", "y")}


def test_ranks_add_up_and_copies_do_not() -> None:
    """Two ranks, one of them in two processes."""
    page = "\n".join(
        f'le="{bound}",model_name="m",rank="{rank}",pid="{pid}" {value}'
        for rank, pid, values in ((0, 1, (1, 2)), (0, 2, (1, 3)), (1, 1, (10, 20)))
        for bound, value in zip(("5", "+Inf"), values, strict=True)
    )
    assert histograms(page) == {"m": LengthHistogram((5.0,), (11.0, 12.0))}


@pytest.mark.parametrize(
    "page",
    [
        'le="10",model_name="m" 4',
        'le="10",model_name="m" 4\nle="+Inf",model_name="m" 3',
        'le="-1",model_name="m" 4\nle="+Inf",model_name="m" 5',
        'le="ten",model_name="m" 4\nle="+Inf",model_name="m" 5',
        'model_name="m" 4\nle="+Inf",model_name="m" 5',
        'le="10",model_name="m" NaN\nle="+Inf",model_name="m" 5',
        'le="+Inf",model_name="m" +Inf',
    ],
    ids=["no last", "falling", "negative bound", "no number", "no bound", "nan", "infinite"],
)
def test_what_is_no_histogram_is_left_out(page: str) -> None:
    """It is worth no failure."""
    assert histograms(page) == {}


LABELS = st.fixed_dictionaries(
    {}, optional={"le": st.sampled_from(["1", "2.5", "+Inf", "-Inf", "NaN", "", "x"]), "model_name": st.just("m")}
)


@given(st.lists(st.tuples(LABELS, st.floats(allow_nan=True, allow_infinity=True)), max_size=20))
@settings(deadline=None)
def test_whatever_is_found_is_sound(samples: list[tuple[dict[str, str], float]]) -> None:
    """Bounds rise, and nothing is negative or infinite."""
    for _, found in length_histograms({NAME: samples}, NAME, "rank", {}):
        assert len(found.counts) == len(found.bounds) + 1
        assert list(found.bounds) == sorted(set(found.bounds))
        assert all(0 <= number < math.inf for number in (*found.bounds, *found.counts))
