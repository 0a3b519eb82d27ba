"""Messages between processes: every field of every one arrives as it was."""

from __future__ import annotations

import dataclasses
import math
import typing
from enum import Enum

import msgspec
import pytest
from hypothesis import given, strategies as st

from estimator.demand import Demand, Shape
from estimator.output_length import OutputForecast
from gateway.admission.commands import Admit
from gateway.admission.consider import KvNeed, Verdict
from gateway.domain import Refusal, TenantLimits, Ticket, Usage
from gateway.reporting.record import RequestRecord, UpstreamAttempt
from gateway.workers import messages
from gateway.workers.messages import Message, ToOwner, ToWorker
from tests.workers.pair import RECORD

SAMPLES: dict[object, object] = {
    bool: True,
    int: 2**62 - 1,
    float: math.inf,
    str: "\u00e9",
    bytes: b"\x00\xff",
    OutputForecast: OutputForecast((), (), ()),
}


def _value(hint: object) -> object:
    """Something for a field of this type that is not its default."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return args[-1]
    if type(None) in args:
        return _value(next(arg for arg in args if arg is not type(None)))
    if origin is dict:
        return {_value(args[0]): _value(args[1])}
    if origin in (tuple, frozenset):
        return origin(_value(arg) for arg in args if arg is not Ellipsis)
    if hint in SAMPLES:
        return SAMPLES[hint]
    assert isinstance(hint, type)
    return list(hint)[-1] if issubclass(hint, Enum) else filled(hint)


def filled(kind: type[object]) -> object:
    """One of this kind with something in every field."""
    hints = typing.get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else list(hints)
    return kind(**{name: _value(hints[name]) for name in fields})


ALL = sorted((kind for kind in (*typing.get_args(ToOwner), *typing.get_args(ToWorker))), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", ALL)
def test_every_field_arrives(kind: type[Message]) -> None:
    """Of the message, and of the tickets, records, verdicts and refusals in it; and as the types that they are."""
    sent = filled(kind)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=kind) == sent
    for union in (ToOwner, ToWorker):
        if kind in typing.get_args(union):
            assert msgspec.msgpack.Decoder(union).decode(msgspec.msgpack.encode(sent)) == sent


@pytest.mark.parametrize("kind", [Ticket, Demand, Shape, TenantLimits, Admit, Refusal, Verdict, KvNeed, Usage])
def test_what_is_in_them_is_whole(kind: type[object]) -> None:
    """No field of these is left out on the way, whatever is added to them."""
    sent = filled(kind)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=kind) == sent


def test_a_record_keeps_its_attempts() -> None:
    sent = dataclasses.replace(RECORD, attempts=(UpstreamAttempt("a", "reset", retried=True),))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=RequestRecord) == sent


@given(st.lists(st.integers(0, 2**64 - 1)), st.floats(allow_nan=False))
def test_numbers_arrive_exactly(prefix: list[int], deadline: float) -> None:
    """Names of prefixes have 64 bits; times are doubles."""
    ticket = dataclasses.replace(filled(Ticket), prefix=tuple(prefix), deadline=deadline)  # type: ignore[type-var]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(ticket), type=Ticket) == ticket


def test_each_kind_is_told_apart() -> None:
    """All that there are have a direction, and no two in it have the same tag."""
    named = {value for value in vars(messages).values() if isinstance(value, type) and issubclass(value, Message)}
    assert named - {Message} == set(ALL)
    for union in (ToOwner, ToWorker):
        tags = [kind.__struct_config__.tag for kind in typing.get_args(union)]
        assert len(tags) == len(set(tags))
