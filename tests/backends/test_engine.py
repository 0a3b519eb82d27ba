import msgspec
import pytest

from gateway.backends.engine import (
    Fault,
    RestartWatch,
    TelemetryError,
    decoded,
    fetch_ok,
    fraction,
    listing_of,
    longest_context,
    positive,
    public_names,
    rank_values,
    samples_of,
    total,
    whole,
)
from gateway.backends.listing import ListedModel
from tests.backends.pages import Pages


class Shape(msgspec.Struct):
    n: int


def test_restarts_are_seen_by_marks_and_by_falling_counters() -> None:
    """A life has one name; names never repeat."""
    watch = RestartWatch()
    lives = [
        watch.observe(mark, work) for mark, work in [("a", 1), ("a", 5), ("a", 2), ("a", None), ("a", 1), ("b", 9)]
    ]
    assert lives[0] == lives[1] != lives[2] == lives[3] == lives[4] != lives[5]


async def test_fetch_ok_takes_200_alone() -> None:
    """Any other status means that the page is not offered."""
    assert await fetch_ok(Pages({"/a": b"x"}), "/a") == b"x"
    with pytest.raises(TelemetryError, match="503") as error:
        await fetch_ok(Pages({"/a": (503, b"x")}), "/a")
    assert error.value.reason is Fault.MISSING_METRIC


@pytest.mark.parametrize("body", [b"", b"{", b'{"n":"1"}', b'{"n":1.5}', b"\xff", b'{"n":NaN}', b'{"n":' + b"[" * 5000])
def test_decoded_is_total(body: bytes) -> None:
    """JSON of another shape is a parse fault, whatever it is."""
    with pytest.raises(TelemetryError) as error:
        decoded(body, Shape, "/page")
    assert error.value.reason is Fault.PARSE
    assert decoded(b'{"n":1,"m":2}', Shape, "/page").n == 1


def test_values_by_rank() -> None:
    """Duplicates of a rank count once, by the largest; ranks add up."""
    page = b'm{engine="0",pid="1"} 3\nm{engine="0",pid="2"} 5\nm{engine="1"} 2\n'
    samples = samples_of(page, frozenset({b"m"}))
    assert rank_values(samples, b"m", "engine") == {"0": 5.0, "1": 2.0}
    assert total(samples, b"m", "engine") == 7.0
    assert total(samples, b"absent", "engine") is None
    assert (whole(None), whole(6.9999999)) == (None, 7)


@pytest.mark.parametrize("value", [b"NaN", b"+Inf", b"-1", b"1e300"])
def test_values_that_cannot_be_are_refused(value: bytes) -> None:
    """No count is infinite, negative or astronomic."""
    with pytest.raises(TelemetryError):
        total(samples_of(b"m " + value + b"\n", frozenset({b"m"})), b"m", "engine")


def test_a_malformed_page_and_a_malformed_listing() -> None:
    """Both are parse faults."""
    with pytest.raises(TelemetryError):
        samples_of(b"m one\n", frozenset({b"m"}))
    with pytest.raises(TelemetryError):
        listing_of(b"{}")


@pytest.mark.parametrize(
    ("text", "number", "part"),
    [
        ("33", 33, 33.0),
        ("0", None, 0.0),
        ("None", None, 0.0),
        ("", None, 0.0),
        (None, None, 0.0),
        ("2.5", None, 2.5),
        ("-1", None, 0.0),
        ("²", None, 0.0),
        ("9" * 40, None, 0.0),
    ],
)
def test_numbers_in_labels(text: str | None, number: int | None, part: float) -> None:
    """Labels hold text: only plain digits are numbers."""
    assert positive(text) == number
    assert fraction(text) == part


def test_names_and_contexts() -> None:
    """Public names of what is listed; the least context that is told."""
    listed = (ListedModel("own", context_tokens=512), ListedModel("adapter"), ListedModel("big", context_tokens=1024))
    assert public_names({"public": "own", "gone": "missing"}, listed) == {"public"}
    assert public_names({}, listed) == {"own", "adapter", "big"}
    assert longest_context(listed) == 512
    assert longest_context(listed[1:2]) is None
