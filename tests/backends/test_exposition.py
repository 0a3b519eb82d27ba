import math

import pytest
from hypothesis import given, strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from gateway.backends.exposition import SAMPLES_MAX, parse

NAME = b"wanted"
WANTED = frozenset({NAME})


@given(
    st.dictionaries(st.tuples(st.text(max_size=20), st.text(max_size=20)), st.floats(), max_size=8),
    st.floats(allow_nan=False),
)
def test_reads_what_the_reference_renderer_writes(series: dict[tuple[str, str], float], plain: float) -> None:
    """Any labels and values survive the way through prometheus_client's renderer."""
    registry = CollectorRegistry()
    labelled = Gauge("wanted", "with\nhelp", ["a", "b"], registry=registry)
    Gauge("wanted_too", "a name that begins alike", registry=registry).set(1)
    Gauge("unlabelled", "", registry=registry).set(plain)
    for (a, b), value in series.items():
        labelled.labels(a, b).set(value)
    found = parse(generate_latest(registry), frozenset({NAME, b"unlabelled"}))
    assert found[b"unlabelled"] == [({}, plain)]
    read = {(labels["a"], labels["b"]): value for labels, value in found.get(NAME, [])}
    assert read.keys() == series.keys()
    assert all(read[key] == value or (math.isnan(read[key]) and math.isnan(value)) for key, value in series.items())


@given(st.binary(max_size=200) | st.from_regex(rb"(wanted[{} \ta-z=\"\\,0-9.eNI+-]{0,40}\n){0,4}", fullmatch=True))
def test_any_bytes_give_samples_or_value_error(page: bytes) -> None:
    """Garbage never raises anything else."""
    try:
        found = parse(page, WANTED)
    except ValueError:
        return
    assert all(isinstance(value, float) for samples in found.values() for _, value in samples)


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        (b"wanted 1", {}, 1.0),
        (b"wanted\t1e-3 1395066363000", {}, 0.001),
        (b"wanted{} +Inf", {}, math.inf),
        (b'wanted { a = "1" , b="2", } 3.', {"a": "1", "b": "2"}, 3.0),
        (b'wanted{a="\\"\\\\\\n}"} -0.5\r', {"a": '"\\\n}'}, -0.5),
    ],
)
def test_forms_of_a_sample(line: bytes, labels: dict[str, str], value: float) -> None:
    """Blanks, timestamps, trailing commas, escapes and CRLF are part of the format or common."""
    assert parse(b"garbage {{\n" + line + b"\n", WANTED | {b"absent"}) == {NAME: [(labels, value)]}


@pytest.mark.parametrize(
    "line",
    [
        b"wanted ",
        b"wanted one",
        b"wanted 1_000",
        b"wanted infinity",
        b"wanted 1 2 3",
        b"wanted{ 1",
        b'wanted{a="1" b="2"} 1',
        b'wanted{a="1",a="2"} 1',
        b'wanted{a="\\q"} 1',
        b'wanted{a="\xff"} 1',
        b"wanted{a=1} 1",
        b'wanted{a="1} 1',
    ],
)
def test_a_wanted_line_must_be_well_formed(line: bytes) -> None:
    """Half a truth about a wanted number is refused, not guessed."""
    with pytest.raises(ValueError):  # noqa: PT011 - texts differ
        parse(line + b"\n", WANTED)


def test_a_page_that_was_cut_is_refused() -> None:
    """0.7 may be the beginning of 0.78."""
    with pytest.raises(ValueError, match="line break"):
        parse(b"wanted 0.7", WANTED)


def test_a_family_without_end_is_refused() -> None:
    """A page of nothing but one name would block the loop."""
    with pytest.raises(ValueError, match="more than"):
        parse(b"wanted 1\n" * (SAMPLES_MAX + 1), WANTED)
