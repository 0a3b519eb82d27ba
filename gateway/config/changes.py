"""What differs between two configurations, and what of it a running gateway cannot take up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from pydantic import BaseModel

from gateway.config.listen import Listen
from gateway.config.schema import Config

T = TypeVar("T")
RESTART = frozenset({"listen", "tokenizers", "state", "journal", "ledger", "metrics", "workers", "log.format"})
"""Paths of keys that count at the start only, with all that is below them."""
LIVE_IN_LISTEN = ("tls", "admin_tls", "admin_token")
"""Certificates and the token can be changed, but not whether there is one."""


def differences(before: BaseModel, after: BaseModel, path: str = "") -> Iterator[str]:
    """Paths of the keys whose values differ. Items of lists that have names are told by name: `backends.local-1`."""
    for key in type(before).model_fields:
        old, new = getattr(before, key), getattr(after, key)
        here = f"{path}{key}"
        if isinstance(old, BaseModel) and isinstance(new, BaseModel):
            yield from differences(old, new, f"{here}.")
        elif (olds := _named(old)) is not None and (news := _named(new)) is not None:
            yield from (
                f"{here}.{name}" for name in sorted(olds.keys() | news.keys()) if olds.get(name) != news.get(name)
            )
        elif old != new:
            yield here


def without_restart(before: Config, after: Config) -> Config:
    """`after` as far as a gateway that was started with `before` can take it up."""
    top = {key: getattr(before, key) for key in RESTART if "." not in key}
    log = after.log.model_copy(update={"format": before.log.format})
    return after.model_copy(update={**top, "log": log, "listen": _listen(before.listen, after.listen)})


def _listen(before: Listen, after: Listen) -> Listen:
    renewed = {key: _renewed(getattr(before, key), getattr(after, key)) for key in LIVE_IN_LISTEN}
    return before.model_copy(update=renewed)


def _renewed(before: T | None, after: T | None) -> T | None:
    return before if before is None or after is None else after


def _named(items: object) -> dict[str, object] | None:
    if not isinstance(items, tuple) or not all(isinstance(getattr(item, "name", None), str) for item in items):
        return None
    return {item.name: item for item in items}
