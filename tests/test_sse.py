"""Splitting of event streams: any cut of any stream gives the same bytes and the same events."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from gateway.sse import EventSplitter, SseError, count_events, iter_data

LINE_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
LINES = st.sampled_from(
    [b"data: one", b"data:two", b"data", b"data:", b"data:  two blanks", b": ping", b"", b"id: 7", b"x"]
)
STREAMS = st.lists(st.tuples(LINES, LINE_ENDS), max_size=12).map(
    lambda lines: b"".join(line + end for line, end in lines),
)
NOISE = st.lists(st.sampled_from([b"\n", b"\r", b"d", b"data:", b":", b" "]), max_size=20).map(b"".join)


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    """A stream in pieces."""
    whole = draw(STREAMS | NOISE)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return [whole[start:stop] for start, stop in pairwise([0, *cuts, len(whole)])]


def reference_events(stream: bytes) -> list[bytes]:
    """The standard's algorithm, character by character, as a second opinion."""
    text = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[bytes] = []
    buffer: bytes | None = None
    for line in text.split(b"\n")[:-1]:
        if not line:
            if buffer is not None:
                events.append(buffer[:-1])
            buffer = None
            continue
        field, _, value = line.partition(b":")
        if field == b"data":
            buffer = (buffer or b"") + value.removeprefix(b" ") + b"\n"
    return events


def feed_all(pieces: Iterable[bytes]) -> tuple[list[bytes], int]:
    """Everything the splitter gives, and what it holds back."""
    splitter = EventSplitter()
    return [whole for piece in pieces if (whole := splitter.feed(piece))], splitter.pending


@given(cut_streams())
def test_bytes_pass_untouched_whatever_the_cut(pieces: list[bytes]) -> None:
    """What comes out is the beginning of what went in, and the rest is pending."""
    stream = b"".join(pieces)
    out, pending = feed_all(pieces)
    assert b"".join(out) == stream[: len(stream) - pending]


@given(cut_streams())
def test_any_cut_gives_the_events_of_the_standard(pieces: list[bytes]) -> None:
    """Each piece that comes out parses alone: no event is cut, none is lost."""
    out, _ = feed_all(pieces)
    assert [data for whole in out for data in iter_data(whole)] == reference_events(b"".join(pieces))


@given(cut_streams())
def test_what_is_pending_is_less_than_one_event(pieces: list[bytes]) -> None:
    """Nothing whole is held back."""
    _, pending = feed_all(pieces)
    stream = b"".join(pieces)
    rest = stream[len(stream) - pending :]
    assert reference_events(rest) == []
    assert not rest.startswith((b"\r", b"\n"))


@given(st.lists(st.binary(max_size=20).filter(lambda data: not set(data) & set(b"\r\n")), max_size=6), LINE_ENDS)
def test_counting_agrees_with_parsing_for_events_of_one_line(payloads: list[bytes], end: bytes) -> None:
    """Engines send one data line for each event."""
    events = b"".join(b"data: " + payload + end + end for payload in payloads)
    assert count_events(events) == len(list(iter_data(events))) == len(payloads)


def test_whole_events_are_passed_on_without_a_copy() -> None:
    """The common case: one event in one piece."""
    event = b'data: {"a":1}\n\n'
    assert EventSplitter().feed(event) is event


def test_unfinished_event_waits_for_its_end() -> None:
    """The first event leaves although the second has begun."""
    splitter = EventSplitter()
    assert splitter.feed(b"data: 1\n\ndata: 2\n") == b"data: 1\n\n"
    assert splitter.pending == len(b"data: 2\n")
    assert splitter.feed(b"\nda") == b"data: 2\n\n"
    assert splitter.feed(b"") == b""
    assert splitter.pending == 2


def test_crlf_cut_in_two_is_one_line_end() -> None:
    """Otherwise an event of two lines would be torn apart."""
    splitter = EventSplitter()
    assert splitter.feed(b"data: 1\r") == b""
    assert splitter.feed(b"\ndata: 2\r") == b""
    assert splitter.feed(b"\n\r") == b"data: 1\r\ndata: 2\r\n\r"
    assert splitter.feed(b"\n") == b"\n"
    assert splitter.pending == 0


def test_endless_event_is_an_error() -> None:
    """The limit holds to the byte, however the event arrives."""
    splitter = EventSplitter(pending_max_bytes=10)
    assert splitter.feed(b"data: 7890") == b""
    with pytest.raises(SseError):
        splitter.feed(b"1")


def test_byte_order_mark_counts_only_at_the_start_of_a_stream() -> None:
    """Later it is part of a field name that nobody knows."""
    assert list(iter_data(b"\xef\xbb\xbfdata: 1\n\n", at_stream_start=True)) == [b"1"]
    assert list(iter_data(b"\xef\xbb\xbfdata: 1\n\n")) == []


def test_data_is_joined_and_stripped_as_the_standard_says() -> None:
    """Several lines, comments, other fields, empty data, one blank taken off, and an end that never came."""
    events = b": ping\nid: 1\ndata:  a\ndata\ndata:b\n\ndata\n\nevent: x\n\ndata: lost\n"
    assert list(iter_data(events)) == [b" a\n\nb", b""]
