"""The forwarded body is what the client said with the change applied, and its values are the client's own bytes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

import msgspec
from hypothesis import given, strategies as st

from estimator.demand import Shape
from gateway.domain import Priority
from gateway.request import (
    ANONYMOUS,
    CHAT,
    UNTRACED,
    InferenceRequest,
    Tenant,
    TraceContext,
    forward_body,
    join_fields,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
OPTIONS = st.none() | st.dictionaries(st.sampled_from(["include_obfuscation", "include_usage"]), st.booleans())
SPACINGS: st.SearchStrategy[Callable[[object], str]] = st.sampled_from(
    [
        json.dumps,
        functools.partial(json.dumps, separators=(",", ":")),
        functools.partial(json.dumps, ensure_ascii=False, indent="\t"),
    ]
)
LIMITS = st.none() | st.integers(1, 9_999)


def request_of(body: bytes) -> InferenceRequest:
    """As the parser makes it."""
    said = json.loads(body)
    options = said.get("stream_options") or {}
    return InferenceRequest(
        endpoint=CHAT,
        model=said["model"],
        body=body,
        fields=msgspec.json.decode(body, type=dict[str, msgspec.Raw]),
        shape=Shape(0, max_tokens=said.get("max_tokens") or said.get("max_completion_tokens")),
        stream=bool(said.get("stream")),
        include_usage=bool(options.get("include_usage")),
    )


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Any object with a model, in any spacing and order."""
    fields: dict[str, object] = draw(st.dictionaries(st.text(max_size=6), VALUES, max_size=4))
    fields |= {"model": draw(st.text(max_size=8)), "messages": draw(VALUES)}
    fields |= draw(
        st.fixed_dictionaries({}, optional={"stream": st.booleans(), "stream_options": OPTIONS, "max_tokens": LIMITS})
    )
    order = draw(st.permutations(sorted(fields)))
    return draw(SPACINGS)({name: fields[name] for name in order}).encode()


@given(bodies(), st.none() | st.text(max_size=12), st.booleans(), LIMITS)
def test_a_forwarded_body_differs_by_the_change_alone(
    body: bytes, engine_model: str | None, include_usage: bool, max_tokens: int | None
) -> None:
    """Read back, it equals the original with the change applied, whatever spacing and escapes it has."""
    request = request_of(body)
    wanted = json.loads(body)
    if engine_model is not None:
        wanted["model"] = engine_model
    if include_usage and request.stream:
        wanted["stream_options"] = {**(wanted.get("stream_options") or {}), "include_usage": True}
    if max_tokens is not None:
        wanted["max_tokens"] = max_tokens
    sent = forward_body(request, engine_model=engine_model, include_usage=include_usage, max_tokens=max_tokens)
    assert json.loads(sent) == wanted
    assert sent is body or bytes(request.fields["messages"]) in sent


def test_an_unchanged_body_is_the_same_object() -> None:
    """Not even a copy is made."""
    body = b'{ "model" : "m" , "stream" : true , "max_tokens":5, "stream_options":{"include_usage":true}}'
    assert forward_body(request_of(body), engine_model="m", include_usage=True, max_tokens=5) is body


def test_usage_is_asked_for_in_streams_alone() -> None:
    """An engine refuses `stream_options` elsewhere."""
    body = b'{"model":"m"}'
    assert forward_body(request_of(body), include_usage=True) is body


def test_an_output_limit_goes_where_the_client_put_it() -> None:
    """In both fields if it used both, and in the older one, which every engine knows, if it used none."""
    both = b'{"model":"m","max_tokens":9,"max_completion_tokens":9}'
    assert json.loads(forward_body(request_of(both), max_tokens=5)) == {
        "model": "m",
        "max_tokens": 5,
        "max_completion_tokens": 5,
    }
    newer = b'{"model":"m","max_completion_tokens":9}'
    assert forward_body(request_of(newer), max_tokens=5) == b'{"model":"m","max_completion_tokens":5}'
    assert forward_body(request_of(b'{"model":"m"}'), max_tokens=5) == b'{"model":"m","max_tokens":5}'


def test_a_default_output_limit_is_written_out() -> None:
    """Engines differ in what a completion without `max_tokens` may generate; memory was reserved for OpenAI's 16."""
    request = request_of(b'{"model":"m","prompt":"a"}')
    request.shape = Shape(1, max_tokens=16)
    assert json.loads(forward_body(request)) == {"model": "m", "prompt": "a", "max_tokens": 16}


def test_fields_join_to_an_object() -> None:
    """Of any number, with keys escaped where they must be."""
    assert join_fields({}) == b"{}"
    assert json.loads(join_fields({'a"\n': msgspec.Raw(b"[1]"), "é": b"2"})) == {'a"\n': [1], "é": 2}


def test_a_request_starts_without_a_tenant() -> None:
    """The HTTP surface fills in who asks; until then it is nobody in particular."""
    request = request_of(b'{"model":"m"}')
    assert request.tenant is ANONYMOUS
    assert Tenant() == Tenant("", Priority.INTERACTIVE, 1.0)


def test_a_trace_context_tells_its_parts() -> None:
    """The sampled flag is the last bit; further ones mean something else."""
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    flags = {"00": False, "01": True, "02": False, "03": True, "ff": True}
    assert {f: TraceContext(f"00-{trace}-{span}-{f}").is_sampled for f in flags} == flags
    assert TraceContext(f"00-{trace}-{span}-01").trace_id == trace
    assert (UNTRACED.trace_id, UNTRACED.is_sampled) == ("", False)
