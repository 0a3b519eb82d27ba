"""Reading traces and journals, and making workloads of them."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from gateway.domain import Priority
from gateway.reporting.journal import Journal
from gateway.reporting.record import RequestRecord
from gateway.simulation.workload import Request, Row, Trace, TraceError, at_rate, read_trace, requests_of

HEAD = "arrival_s,prompt_tokens,output_tokens\n"


def a_trace(*rows: tuple[float, int, int | None, int | None], tells: bool = True) -> Trace:
    """Rows of arrival, prompt, output and `max_tokens`."""
    return Trace(tuple(Row(*row, tenant="", priority=Priority.INTERACTIVE) for row in rows), tells)


def a_journal_line(**fields: object) -> str:
    """One decision as the gateway writes it."""
    base: dict[str, object] = {"arrived_s": 5.0, "model": "m", "prompt_tokens": 10, "output_tokens": 20}
    return json.dumps(base | fields) + "\n"


def test_reads_a_trace() -> None:
    """The columns may stand in any order, among others, after a byte order mark; empty lines do not count."""
    lines = ["\ufeffprompt_tokens, arrival_s,hash_ids,output_tokens,client\n", "7,0.5,1 2 3,9,c\n", "\n", "8,0.5,,1,\n"]
    trace = read_trace(lines)
    assert trace.rows == (
        Row(0.5, 7, 9, None, "c", Priority.INTERACTIVE),
        Row(0.5, 8, 1, None, "", Priority.INTERACTIVE),
    )
    assert not trace.tells_max_tokens


def test_a_column_of_max_tokens_counts_even_where_it_is_empty() -> None:
    """Then a client set none: nothing is made up."""
    trace = read_trace([HEAD.strip() + ",max_tokens,priority\n", "0,1,2,64,batch\n", "1,1,2,,\n"])
    assert trace.tells_max_tokens
    assert [row.max_tokens for row in trace.rows] == [64, None]
    assert [row.priority for row in trace.rows] == [Priority.BATCH, Priority.INTERACTIVE]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "Line 1: the trace has no column arrival_s and no column prompt_tokens and no column output_tokens."),
        (["arrival_s,prompt_tokens\n"], "Line 1: the trace has no column output_tokens."),
        ([HEAD], "The trace is empty: it has no request."),
        ([HEAD, "0,1,1\n", "-1,1,1\n"], "Line 3: arrival_s is -1, below zero."),
        ([HEAD, "2,1,1\n", "1.5,1,1\n"], "Line 3: arrival_s is 1.5, before the 2 above it."),
        ([HEAD, "soon,1,1\n"], "Line 2: arrival_s is 'soon', not a number of seconds."),
        ([HEAD, "nan,1,1\n"], "Line 2: arrival_s is 'nan', not a number of seconds."),
        ([HEAD, "0,1.5,1\n"], "Line 2: prompt_tokens is '1.5', not a whole number from 1 on."),
        ([HEAD, "0,1,0\n"], "Line 2: output_tokens is '0', not a whole number from 1 on."),
        ([HEAD, "0,1,\n"], "Line 2: output_tokens is '', not a whole number from 1 on."),
        ([HEAD, "0,1\n"], "Line 2: 2 cells under 3 columns."),
        (
            [HEAD.strip() + ",priority\n", "0,1,1,high\n"],
            "Line 2: priority is 'high', not interactive, standard, batch.",
        ),
        ([a_journal_line(sequences=5000)], "Line 1: sequences is 5000, above 1024."),
        (["{]\n"], "Line 1: no JSON object."),
        (["{}\n"], "Line 1: arrived_s is missing."),
        ([a_journal_line(), "[1]\n"], "Line 2: no JSON object."),
        ([a_journal_line(), a_journal_line(prompt_tokens=None)], "Line 2: prompt_tokens is missing."),
        ([a_journal_line(), a_journal_line(arrived_s=-3)], "Line 2: arrived_s is -3, below zero."),
        (
            [a_journal_line(), a_journal_line(model="n")],
            "The journal has requests for several models (m, n): name one of them.",
        ),
        (
            [a_journal_line(output_tokens=None)],
            "The journal has no request that was served, so nothing is known of the answers' lengths.",
        ),
    ],
)
def test_says_which_line_cannot_be_replayed_and_why(lines: list[str], message: str) -> None:
    """One sentence with the line's number, never a traceback."""
    with pytest.raises(TraceError) as raised:
        read_trace(lines)
    assert str(raised.value) == message


@settings(deadline=None)
@given(st.lists(st.text(max_size=30), max_size=5))
def test_whatever_is_read_is_a_trace_or_one_clear_error(lines: list[str]) -> None:
    """No input brings another exception."""
    for text in (lines, [HEAD, *lines], [a_journal_line(), *lines]):
        rows = 0
        with suppress(TraceError):
            rows = len(read_trace([line + "\n" for line in text]).rows)
        assert rows <= len(lines) + 1


def test_reads_a_journal_in_the_order_of_arrival() -> None:
    """It is written as requests end. A refused request has no length."""
    trace = read_trace(
        [
            a_journal_line(arrived_s=9.0, max_tokens=50, tenant="t", priority="batch"),
            "\n",
            a_journal_line(arrived_s=8.0, output_tokens=None, max_tokens=None),
        ]
    )
    assert trace.tells_max_tokens
    assert trace.rows == (
        Row(8.0, 10, None, None, "", Priority.INTERACTIVE, "m"),
        Row(9.0, 10, 20, 50, "t", Priority.BATCH, "m"),
    )


def test_a_request_for_several_answers_is_several_sequences() -> None:
    """Their tokens are counted together, their bound is each one's; an embedding generates nothing."""
    trace = read_trace(
        [
            a_journal_line(sequences=3, output_tokens=20, max_tokens=8),
            a_journal_line(endpoint="/v1/embeddings", sequences=2, output_tokens=None),
        ]
    )
    assert [(row.prompt_tokens, row.output_tokens, row.max_tokens) for row in trace.rows] == [(10, 7, 8)] * 3 + [
        (10, 1, 1)
    ]


def test_reads_what_the_gateway_writes() -> None:
    """A served request as it went, a refused one as it was asked for."""
    written: list[str] = []

    class Lines:
        def write(self, entry: Mapping[str, object]) -> None:
            written.append(json.dumps(entry) + "\n")

    journal = Journal(1000.0, Lines())
    served = RequestRecord("r1", "/v1/chat/completions", "m", 200, 1.0, "a", 5.0, "admitted", max_tokens=64)
    journal.ended(replace(served, prompt_tokens=12, output_tokens=34, priority=Priority.BATCH, tenant="t"))
    journal.ended(replace(served, request_id="r2", backend="", decision="refused", predicted_prompt_tokens=9))
    assert read_trace(written).rows == (
        Row(1005.0, 12, 34, 64, "t", Priority.BATCH, "m"),
        Row(1005.0, 9, None, 64, "", Priority.INTERACTIVE, "m"),
    )


def test_one_model_of_a_journal_can_be_picked() -> None:
    """The others' requests are left out."""
    lines = [a_journal_line(), a_journal_line(model="n", prompt_tokens=3)]
    assert [row.prompt_tokens for row in read_trace(lines, model="n").rows] == [3]
    with pytest.raises(TraceError, match="empty"):
        read_trace(lines, model="x")


def test_refused_requests_get_a_length_from_the_served_ones() -> None:
    """Drawn with the seed: the same seed gives the same lengths, another seed others."""
    rows = [(0.0, 1, length, None) for length in (3, 5)] + [(1.0, 1, None, None)] * 40
    drawn = [request.output_tokens for request in requests_of(a_trace(*rows), seed=1, sequence_tokens_max=100)][2:]
    assert set(drawn) == {3, 5}
    again = requests_of(a_trace(*rows), seed=1, sequence_tokens_max=100)
    other = requests_of(a_trace(*rows), seed=2, sequence_tokens_max=100)
    assert [request.output_tokens for request in again[2:]] == drawn
    assert [request.output_tokens for request in other[2:]] != drawn


def test_max_tokens_is_drawn_where_a_trace_does_not_tell_it() -> None:
    """Half set none, a quarter an absurd one, a quarter the next power of two."""
    trace = a_trace(*[(0.0, 10, 100, None)] * 4000, tells=False)
    drawn = [request.max_tokens for request in requests_of(trace, seed=0, sequence_tokens_max=100_000)]
    shares = {value: drawn.count(value) / 4000 for value in set(drawn)}
    assert shares == pytest.approx({None: 0.5, 16_384: 0.25, 128: 0.25}, abs=0.03)


def test_limits_cut_answers_and_whoever_cannot_fit_is_left_out() -> None:
    """`max_tokens` never reaches beyond the context; a cap ends answers early and makes room for long prompts."""
    trace = a_trace((3.0, 60, 30, 200), (4.0, 80, 30, None), (5.0, 100, 1, None))
    assert requests_of(trace, seed=0, sequence_tokens_max=100) == [Request(0.0, 60, 30, 40)]
    capped = requests_of(trace, seed=0, sequence_tokens_max=100, max_tokens_cap=16)
    assert capped == [Request(0.0, 60, 16, 16), Request(1.0, 80, 16, 16)]


def test_a_rate_keeps_the_bursts_and_copies_are_shifted_round() -> None:
    """Ten requests at ten times the pace; two copies of them have twice the clients, half of the time apart."""
    requests = [Request(at, number + 1, 1) for number, at in enumerate((0.0, 0.0, 4.0, 9.0))]
    fast = at_rate(requests, 4.0)
    assert [request.arrives_s for request in fast] == pytest.approx([0.0, 0.0, 1 / 3, 0.75])
    double = at_rate(requests, 8.0, copies=2)
    assert [request.prompt_tokens for request in double] == [1, 2, 4, 3, 1, 2, 4, 3]
    assert [request.arrives_s for request in double][:5] == pytest.approx([0.0, 0.0, 0.25, 1 / 3, 0.5])


def test_requests_at_one_time_stay_at_one_time() -> None:
    """There is no span to stretch."""
    assert at_rate([Request(0.0, 1, 1)] * 3, 5.0) == [Request(0.0, 1, 1)] * 3
    assert at_rate([Request(0.0, 1, 1)], 5.0, copies=2) == [Request(0.0, 1, 1)] * 2
