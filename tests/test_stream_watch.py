from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st

from gateway.domain import Usage
from gateway.sse import PENDING_MAX_BYTES, SseError, iter_data
from gateway.stream_watch import LESSONS_MAX, StreamWatch, read_answer
from tests.faults import chunk

RECORDED = sorted((Path(__file__).parent / "data" / "engines").rglob("*.sse"))
DONE = b"data: [DONE]\n\n"
Facts = tuple[bytes, int, Usage | None, bool, bool, bool]


def name(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def watched(data: bytes, cuts: tuple[int, ...] = (), *, keep_usage: bool = True) -> Facts:
    """What comes out of a watch for a stream cut at these places, and what it then knows."""
    watch = StreamWatch(keep_usage=keep_usage)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    out = b"".join(watch.take(data[start:end]) for start, end in pairwise(edges))
    return out, watch.events, watch.usage, watch.hit_length, watch.done, watch.failed


def event(**fields: object) -> bytes:
    """One event as engines write it, with text as it is."""
    return b"data: " + json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def text(content: str, finish_reason: str | None = None) -> bytes:
    return event(object="text_completion", choices=[{"index": 0, "text": content, "finish_reason": finish_reason}])


USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 9, "prompt_tokens_details": None})


@pytest.mark.parametrize("path", RECORDED, ids=name)
def test_recorded_streams_pass_byte_by_byte(path: Path) -> None:
    """Where the client asked for usage, nothing is touched."""
    data = path.read_bytes()
    assert watched(data)[0] == data


@pytest.mark.parametrize("path", RECORDED, ids=name)
def test_only_the_event_of_usage_alone_is_left_out(path: Path) -> None:
    """Every other event passes as it came, one that carries usage beside choices included."""
    data = path.read_bytes()
    events = [whole + b"\n\n" for whole in data.split(b"\n\n") if whole]
    kept = [whole for whole in events if b'"choices":[]' not in whole]
    assert watched(data, keep_usage=False)[0] == b"".join(kept)


@pytest.mark.parametrize("path", RECORDED, ids=name)
def test_recorded_streams_tell_how_they_ended(path: Path) -> None:
    """Usage, the limit, the end and errors, as a full parse of the same bytes finds them."""
    _, count, usage, hit_length, done, failed = watched(path.read_bytes(), keep_usage=False)
    payloads = list(iter_data(path.read_bytes()))
    answers = [json.loads(payload) for payload in payloads if payload != b"[DONE]"]
    usages = [answer["usage"] for answer in answers if answer.get("usage")]
    if usages:
        assert usage is not None
        assert (usage.prompt_tokens, usage.output_tokens) == (
            usages[-1]["prompt_tokens"],
            usages[-1]["completion_tokens"],
        )
    else:
        assert usage is None
    assert count == len(payloads) - sum("usage" in answer and not answer["choices"] for answer in answers)
    assert hit_length == any(c["finish_reason"] == "length" for a in answers for c in a.get("choices", ()))
    assert done == (b"[DONE]" in payloads)
    assert failed == any("error" in answer for answer in answers)


@pytest.mark.parametrize("path", RECORDED, ids=name)
@given(st.data())
def test_any_cut_of_a_recorded_stream_gives_the_same(path: Path, data: st.DataObject) -> None:
    """Where the network cuts the bytes is of no meaning."""
    whole = path.read_bytes()[-3000:]
    whole = whole[whole.index(b"\n\n") + 2 :]
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=12))
    assert watched(whole, tuple(cuts), keep_usage=False) == watched(whole, keep_usage=False)


@given(
    st.lists(
        st.sampled_from([text("a"), text('"usage":{'), text("z", "length"), USAGE, b": ping\n\n", b"\n"]), max_size=6
    ),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.booleans(),
    st.lists(st.integers(0, 2_000), max_size=12),
)
@example(events=[b"\n", USAGE], line_end=b"\n", keep_usage=False, cuts=[1])
@example(events=[USAGE, b"\n"], line_end=b"\n", keep_usage=False, cuts=[len(USAGE) + 1])
def test_any_line_ends_and_any_cuts_give_the_same(
    events: list[bytes], line_end: bytes, keep_usage: bool, cuts: list[int]
) -> None:
    """All three line ends of the standard; only the very last LF of a CRLF may be missing after the end."""
    stream = (b"".join(events) + DONE).replace(b"\n", line_end)
    whole, cut = watched(stream, keep_usage=keep_usage), watched(stream, tuple(cuts), keep_usage=keep_usage)
    assert cut[1:] == whole[1:]
    assert list(iter_data(cut[0] + b"\n")) == list(iter_data(whole[0]))
    if line_end != b"\r\n":
        assert cut[0] == whole[0]
    if keep_usage:
        assert whole[0] == stream
    assert whole[4]


TRICKS = [
    "data: [DONE]",
    "\ndata: [DONE]\n\n",
    "\r\ndata:[DONE]\r\n\r\n",
    'data: {"error":{"code":500}}',
    '\ndata: {"error":"x"}\n\n',
    '"usage":{"completion_tokens":1}',
    '","usage":{"prompt_tokens":1}',
    '\\","usage":{"prompt_tokens":1},"x":"',
    '"finish_reason":"length"',
    '\\"finish_reason\\":\\"length\\"',
    "usage length error [DONE] finish_reason",
    "\u2028data: [DONE]\u2028\u2028\x85",
]


@pytest.mark.parametrize("trick", TRICKS)
def test_what_a_model_writes_is_no_mark(trick: str) -> None:
    """Streams that quote streams: the text of an answer never counts as usage, end, limit or error."""
    data = text(trick) + text("more")
    assert watched(data, keep_usage=False) == (data, 2, None, False, False, False)


@given(st.text(st.sampled_from('datuse:[DONE]{}",\\ \n\rlngth_fir"')))
def test_no_text_at_all_is_a_mark(content: str) -> None:
    """The same for any text from the letters that the marks are made of."""
    data = text(content) + text("more")
    assert watched(data, keep_usage=False) == (data, 2, None, False, False, False)


@pytest.mark.parametrize("ascii_only", [True, False])
@given(st.text())
def test_tool_arguments_are_no_marks_either(ascii_only: bool, content: str) -> None:
    """A string inside a string is escaped twice."""
    inner = json.dumps({"usage": {"prompt_tokens": 1}, "error": {"x": content}, "finish_reason": "length"})
    data = b"data: " + json.dumps({"choices": [{"delta": {"x": inner}}]}, ensure_ascii=ascii_only).encode() + b"\n\n"
    assert watched(data, keep_usage=False) == (data, 1, None, False, False, False)


def test_usage_counts_only_at_the_top_of_an_event() -> None:
    """Some engines put usage of another kind into a choice."""
    data = event(choices=[{"usage": {"prompt_tokens": 1}}])
    assert watched(data, keep_usage=False) == (data, 1, None, False, False, False)


def test_usage_in_every_event_is_the_last_one() -> None:
    """`continuous_usage_stats`: running totals beside the choices, which all pass."""
    parts = [event(choices=[{}], usage={"prompt_tokens": 3, "completion_tokens": n}) for n in (1, 2)]
    assert watched(b"".join(parts), keep_usage=False)[:3] == (b"".join(parts), 2, Usage(3, 2))


@pytest.mark.parametrize(
    "usage",
    ['{"prompt_tokens":-1}', '{"prompt_tokens":1e30}', '{"prompt_tokens":"3"}', '{"completion_tokens":{}}', "[]", "{"],
)
def test_usage_that_makes_no_sense_tells_nothing(usage: str) -> None:
    """It passes on: only what is understood is left out."""
    data = b'data: {"choices":[],"usage":%b}\n\n' % usage.encode()
    assert watched(data, keep_usage=False)[:3] == (data, 1, None)


def test_cached_tokens_and_spaces_are_read() -> None:
    """JSON as hosted providers write it."""
    data = b'data:{"choices": [], "usage" : { "prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}}\n\n'
    assert watched(data, keep_usage=False)[:3] == (b"", 0, Usage(3, 0, 2))


def test_an_event_without_a_blank_line_of_the_usual_kind_is_not_lost() -> None:
    """LF and CRLF mixed, and a CRLF cut in two: each byte passes or belongs to the event left out."""
    mixed = text("a")[:-1] + b"\r\n" + USAGE[:-2] + b"\r\n\r"
    assert watched(mixed, keep_usage=False)[0] == text("a")[:-1] + b"\r\n"
    assert watched(mixed)[0] == mixed


@pytest.mark.parametrize("end", [DONE, b"data:[DONE]\n\n", b"data: [DONE]\r\n\r\n"])
def test_nothing_passes_after_the_end(end: bytes) -> None:
    """In the same read or in a later one."""
    watch = StreamWatch(keep_usage=True)
    assert watch.take(text("a") + end + text("b")) == text("a") + end
    assert watch.take(text("c")) == b""
    assert (watch.done, watch.events) == (True, 2)


@given(st.lists(st.sampled_from(["[DONE]", "data: [DONE]", "\ndata: [DONE]\n\n", "x"])), st.sampled_from([0, 1, 7, 40]))
def test_the_end_is_found_behind_what_only_quotes_it(contents: list[str], cut: int) -> None:
    """In whatever piece it comes, and however often the word stands before it."""
    before = b"".join([text(content) for content in contents])
    assert watched(before + DONE + text("after"), (len(before) + cut,)) == (
        before + DONE,
        len(contents) + 1,
        None,
        False,
        True,
        False,
    )


class Suspicious(StreamWatch):
    """Takes no event for one like the last."""

    __slots__ = ()

    def _note_likeness(self, event: bytes) -> None:
        """Not even this one."""


FRAMES = [
    (b'data: {"choices":[{"delta":{"content":"', b'"},"finish_reason":null}]}\n\n'),
    (b'data: {"choices":[{"delta":{"content":"', b'":{"completion_tokens":1}}]}\n\n'),
    (b'data:{"text":"', b'" :{"prompt_tokens":1}}\n\n'),
    (b'data: {"finish_reason":"', b'","content":"a"}\n\n'),
    (b'data: {"', b'":{"content":"a"}}\n\n'),
    (b'"content":"', b'"}\n\n'),
    (b'data: "text":"', b'"}\r\n\r\n'),
    (b': "text":"a" ', b"\n\n"),
    (b'data: {"text":"', b'"\ndata: }\n\n'),
    (b'data: a\rdata: {"text":"', b'"}\n\n'),
    (b'data: {"text":"', b"\n\n"),
]
INSIDE = st.sampled_from(
    [
        *(b"", b"a", b"\\", b'\\"', b"\n\n", b"\r", b"\rdata: ", b"\r\rdata: [DONE]\r\r"),
        *(b"usage", b"length", b"error", b"[DONE]", b"content", b'content":"', b'"finish_reason":"length'),
        *(b'"usage":{"completion_tokens":1},"', b"\n\ndata: [DONE]\n\n", b'"}\n\ndata: {"error":{'),
    ]
)


@given(
    st.lists(st.tuples(st.sampled_from(FRAMES), INSIDE, INSIDE), max_size=12), st.lists(st.integers(0, 500), max_size=3)
)
def test_events_alike_are_read_like_all_others(
    parts: list[tuple[tuple[bytes, bytes], bytes, bytes]], cuts: list[int]
) -> None:
    """Whatever stands in the place of a text, valid or not: each read gives the same, and tells the same."""
    reads = [event for (before, after), *texts in parts for text in texts for event in [before + text + after] * 2]
    for at in cuts:
        if reads:
            whole = reads[at % len(reads)]
            reads[at % len(reads) : at % len(reads) + 1] = [whole[: at % 7], whole[at % 7 :]]
    quick, express, slow = StreamWatch(keep_usage=False), StreamWatch(keep_usage=False), Suspicious(keep_usage=False)
    for read in reads:
        taken = slow.take(read)
        assert quick.take(read) == taken
        assert (read if express.take_chunk(chunk(read)) else express.take(read)) == taken
        for fact in ("events", "usage", "hit_length", "done", "failed"):
            assert getattr(quick, fact) == getattr(express, fact) == getattr(slow, fact), fact


def test_events_that_are_never_alike_are_soon_not_compared() -> None:
    """As those of two answers in turns; but a stream whose events were alike is tried again."""
    watch = StreamWatch(keep_usage=False)
    for count in range(LESSONS_MAX + 1):
        assert (watch._alike_bytes < 1000) == (0 < count <= LESSONS_MAX)
        watch.take(event(index=count, text="a"))
    assert watch._alike_bytes > 1000
    watch = StreamWatch(keep_usage=False)
    for count in range(2 * LESSONS_MAX):
        for _ in range(2):
            watch.take(event(index=count, text="a"))
        assert watch._alike_bytes < 1000


def test_an_event_like_the_last_passes_without_a_copy() -> None:
    """Also where one came between that is not; what matters is that the common way is taken at all."""
    watch = StreamWatch(keep_usage=False)
    for content in ("a", "bc", 'a "quote"', "d", "e"):
        assert watch.take(text(content)) == text(content)
    like = text("f")
    assert len(like) >= watch._alike_bytes
    assert watch.take(like) is like
    assert watch.take_chunk(chunk(like))
    assert watch.events == 7


def test_only_a_whole_chunk_of_one_event_is_taken_as_one() -> None:
    """Anything else is left to who reads all of HTTP/1.1, and nothing of it is counted."""
    watch, like = StreamWatch(keep_usage=False), text("f")
    assert not watch.take_chunk(chunk(like))
    watch.take(like)
    good = chunk(like)
    bad = [good[:end] for end in range(len(good))] + [good[at:] for at in range(1, len(good))]
    bad += [good + b"\r\n", good + good, good[:-2] + b"\n\n", b"0" + good, good.replace(b"\r\n", b";a\r\n", 1)]
    bad += [chunk(like + b"\n"), chunk(DONE), chunk(text("f", "length")), chunk(like[:-4]), b"%x\n" % len(like) + like]
    assert [data for data in bad if watch.take_chunk(data)] == []
    assert watch.events == 1
    assert watch.take_chunk(good)
    assert watch.events == 2


def test_only_the_whole_word_is_the_end() -> None:
    """Neither more behind it nor anything before it."""
    data = b"data: [DONE]x\n\ndata:  [DONE] \n\nevent: data: [DONE]\n\n"
    assert not watched(data)[4]


@pytest.mark.parametrize(("first", "failed"), [('{"code":500}', True), ('"dead"', True), ("null", False)])
def test_an_error_event_is_a_failure(first: str, failed: bool) -> None:
    """An object as vLLM and llama.cpp send it, or a plain word; null is none."""
    assert watched(b'data: { "error": %b}\n\n' % first.encode())[5] == failed


def test_an_event_without_end_is_refused() -> None:
    """Nothing grows without a bound."""
    watch = StreamWatch(keep_usage=True)
    with pytest.raises(SseError):
        watch.take(b"data: " + b"x" * (PENDING_MAX_BYTES + 1))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"choices":[{"finish_reason":"length"}],"usage":{"prompt_tokens":4,"completion_tokens":2}}', (4, 2, True)),
        (b'{"choices":[{"finish_reason":"stop"},{"finish_reason":null}],"usage":{"prompt_tokens":4}}', (4, 0, False)),
        (b'{"data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}', (8, 0, False)),
    ],
)
def test_whole_answers_tell_the_same(body: bytes, expected: tuple[int, int, bool]) -> None:
    """An answer in one piece, embeddings included."""
    usage, hit_length = read_answer(body)
    assert usage is not None
    assert (usage.prompt_tokens, usage.output_tokens, hit_length) == expected


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"choices":3}', b"\xff", b"[" * 100_000])
def test_whole_answers_that_are_none_tell_nothing(body: bytes) -> None:
    """They still go to the client: it is the engine's word."""
    assert read_answer(body) == (None, False)


@pytest.mark.parametrize(
    "halves",
    [
        (b"data: {\n\n", b'"error":{"message":"x"}}\n\n'),
        (b'data: "finish_reason":\n\n', b'"length"\n\n'),
        (b'data: {"usage":\n\n', b"{}}\n\n"),
    ],
)
def test_no_mark_reaches_over_the_end_of_an_event(halves: tuple[bytes, bytes]) -> None:
    """Whether two events come together must not matter."""
    data = b"".join(halves)
    assert watched(data) == watched(data, (len(halves[0]),))
    assert not any(watched(data)[3:])
