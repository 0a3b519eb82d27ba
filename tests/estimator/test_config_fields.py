"""Reading a JSON object field by field."""

import pytest
from hypothesis import given, strategies as st

from estimator import EstimatorError
from estimator.config_fields import COUNT_MAX, ConfigFields

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(JSON)
def test_a_count_is_a_whole_number_in_range_or_an_error(value: object) -> None:
    """Any JSON value either is such a number, or counts as missing, or is named in an error."""
    fields = ConfigFields("m", {"layers": value})
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= COUNT_MAX:
        assert fields.count("layers") == value
    else:
        with pytest.raises(EstimatorError, match="layers"):
            fields.count("layers")


def test_the_first_name_that_says_something_counts() -> None:
    """A null is no answer; the error names every name that was tried."""
    fields = ConfigFields("m", {"a": None, "b": 3, "c": 4})
    assert fields.count("a", "b", "c") == 3
    assert fields.count_if_any("a", "x") is None
    with pytest.raises(EstimatorError, match=r"of m has no field 'x' \(nor a, y\)"):
        fields.count("x", "a", "y")


def test_long_values_are_cut_in_messages() -> None:
    """An error stays one readable sentence."""
    with pytest.raises(EstimatorError) as caught:
        ConfigFields("m", {"a": ["x"] * 1000}).count("a")
    assert len(str(caught.value)) < 160


def test_lists_texts_and_inner_objects() -> None:
    """Missing is empty; a wrong type is an error only where a list is needed."""
    fields = ConfigFields("m", {"list": [1], "text": "t", "empty": "", "inner": {"a": 1}, "number": 5})
    assert fields.items("list") == [1]
    assert fields.items("none") == ()
    with pytest.raises(EstimatorError, match="'number' of m is 5, not a list"):
        fields.items("number")
    assert fields.text("empty", "number", "text") == "t"
    assert fields.text("none") == ""
    inner = fields.inner("none", "number", "inner")
    assert inner is not None
    assert inner.count("a") == 1
    assert fields.inner("none") is None
    assert fields.has("list")
    assert not fields.has("empty")


def test_counts_that_may_be_nothing() -> None:
    """Zero and missing are the same to one, and told apart by the other."""
    fields = ConfigFields("m", {"none": 0, "some": 3, "wrong": "x"})
    assert (fields.any_count("none", "missing"), fields.any_count("missing", "some")) == (0, 3)
    assert (fields.whole("none", 7), fields.whole("missing", 7), fields.whole("some")) == (0, 7, 3)
    with pytest.raises(EstimatorError, match="'wrong' of m is 'x'"):
        fields.whole("wrong")
