"""A copy of admission that decides as the original would, without the original noticing.

So a dry run is the decision itself and not a second description of it. What the arrival of a request may change is
copied: containers, arrays, and objects of these rooms that can change. What it cannot is shared: values, and the books
of each open request, since an arrival opens some and touches none. The cost is that of copying lists of references.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeVar, cast

import numpy as np

from gateway.admission.hosted import HostedLease
from gateway.admission.ledger import Lease

T = TypeVar("T")
_CONTAINERS = (dict, list, deque, set, np.ndarray)
_UNTOUCHED = (Lease, HostedLease)
"""Changed by progress and by their end alone."""
_OURS = ("gateway.admission.", "gateway.routing.")


def rehearsal(original: T) -> T:
    """A copy at which one request may arrive. The original must not be used while the copy is."""
    return cast("T", _forked(original, {}))


def _forked(value: object, known: dict[int, object]) -> object:
    """`known` keeps what is one object in the original one object in the copy, by its identity there."""
    kind: type = type(value)
    if not _may_change(kind):
        return value
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, dict):
        table = known[id(value)] = value.copy()
        if _any_may_change(value.values()):
            table.update((key, _forked(item, known)) for key, item in value.items())
        return table
    if isinstance(value, list | deque):
        row = known[id(value)] = value.copy()
        if _any_may_change(value):
            for place, item in enumerate(value):
                row[place] = _forked(item, known)
        return row
    if isinstance(value, set | np.ndarray):
        flat = known[id(value)] = value.copy()
        return flat
    return _forked_object(value, kind, known)


def _forked_object(value: object, kind: type, known: dict[int, object]) -> object:
    twin: object = object.__new__(kind)
    known[id(value)] = twin
    for name in (*_slots(kind), *getattr(value, "__dict__", ())):
        if hasattr(value, name):
            setattr(twin, name, _forked(getattr(value, name), known))
    return twin


def _any_may_change(items: Iterable[object]) -> bool:
    return any(map(_may_change, set(map(type, items))))


@lru_cache(maxsize=256)
def _may_change(kind: type) -> bool:
    if issubclass(kind, _CONTAINERS):
        return True
    if not kind.__module__.startswith(_OURS) or issubclass(kind, (enum.Enum, tuple, *_UNTOUCHED)):
        return False
    settings = getattr(kind, "__dataclass_params__", None)
    return settings is None or not settings.frozen


@lru_cache(maxsize=256)
def _slots(kind: type) -> tuple[str, ...]:
    named = (name for base in kind.__mro__ for name in base.__dict__.get("__slots__", ()))
    return tuple(name for name in named if name not in ("__dict__", "__weakref__"))
