"""JSON read so strictly that no two readers of a body can disagree about it: one value per key, bounded depth and size.

Everything goes through msgspec, which refuses bad syntax, NaN, lone surrogates and byte order marks, but neither
duplicate keys nor deep nesting. Objects near the root are split into undecoded values, and `key_proof` shows almost
at no cost that no key came twice. Where it cannot, for keys written with escapes, the text goes through the exact,
slower reader of the standard library.

The event loop waits meanwhile, so nothing of the allowed size may take long to read (`benchmarks/hostile.py`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import msgspec
from msgspec import Raw

from gateway.api.chat_parts import ChatParts, fields_of
from gateway.api.key_proof import is_array_proven, is_object_proven
from gateway.errors import ApiError, duplicate_key, invalid_json, invalid_value

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

DEPTH_MAX = 64
"""Arrays and objects inside each other, the root included."""
NODES_MAX = 20_000
"""Values in one body, token ids aside: what decoding costs depends on their number far more than on their length."""
INTEGER_MAX = 2**53
"""Beyond it readers that keep numbers as doubles see another integer."""
_NAME_SHOWN_CHARS = 64

_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_OBJECTS = msgspec.json.Decoder(list[dict[str, Raw]])
_TREE = msgspec.json.Decoder()
_ENCODE = msgspec.json.Encoder().encode
_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_LONG_BYTES = 16 * NODES_MAX
"""From here on even splitting a body could hold up everybody else."""
_EXACT_BODY_MAX_BYTES = 1 << 20
_EXACT_COMMAS_MAX = 10 * NODES_MAX
"""What has more is not read by the exact reader, which takes many times as long."""
_LONG_INTEGER = b"0" * len(str(INTEGER_MAX))


class StrictReader:
    """Reads the parts of one body and keeps count of its values."""

    __slots__ = ("_parts", "_proven", "nodes")

    def __init__(self) -> None:
        self.nodes = 0
        """Values that were read."""
        self._proven = False
        """The whole body went through the exact reader: no part of it needs a proof of its own."""
        self._parts: ChatParts | None = None

    def resume(self, parts: ChatParts, nodes: int) -> None:
        """Be where the messages of a chat are next, and so many values are known to stand around them."""
        self._parts = parts
        self._count(nodes)

    def root(self, body: bytes, parts: ChatParts | None = None) -> dict[str, Raw]:
        """The top-level fields, undecoded.

        Args:
            body: a text.
            parts: of the same body, if it is a chat and could be taken apart.

        Raises:
            ApiError: 400, for a body that is not UTF-8, not JSON, not an object, or has a key twice.
        """
        if len(body) > _LONG_BYTES:
            _require_few_strings(body, NODES_MAX)
        self._parts = parts
        if parts is not None and (found := fields_of(parts)) is not None:
            self._count(1 + len(found))
            return found
        try:
            if not body.isascii():
                body.decode()
            fields = _OBJECT.decode(body)
        except UnicodeDecodeError as error:
            raise invalid_json("it is not UTF-8") from error
        except RecursionError as error:
            raise _too_deep() from error
        except msgspec.ValidationError as error:
            raise invalid_json("the root must be an object") from error
        except msgspec.DecodeError as error:
            raise invalid_json(_reason(error)) from error
        self._count(1 + len(fields))
        if not is_object_proven(body, fields):
            if len(body) > _EXACT_BODY_MAX_BYTES:
                raise _not_read_exactly()
            _read_exactly(body)
            self._proven = True
        return fields

    def object(self, name: str, raw: Raw) -> dict[str, Raw]:
        """The fields of an object, undecoded.

        Raises:
            ApiError: 400 `invalid_value` if it is none.
        """
        try:
            fields = _OBJECT.decode(raw)
        except msgspec.ValidationError as error:
            raise invalid_value(name, "expected an object") from error
        self._count(1 + len(fields))
        if not self._proven and not is_object_proven(raw, fields):
            _read_exactly(bytes(raw))
        return fields

    def objects(self, name: str, raw: Raw) -> list[dict[str, Raw]]:
        """The fields of each object of an array, undecoded.

        Raises:
            ApiError: 400 `invalid_value` if it is something else.
        """
        try:
            items = _OBJECTS.decode(raw)
        except msgspec.ValidationError as error:
            raise invalid_value(name, "expected an array of objects") from error
        return self._checked(raw, items, is_proven=False)

    def messages(self, raw: Raw) -> list[dict[str, Raw]]:
        """As `objects`, for the messages of a chat.

        Raises:
            ApiError: 400 `invalid_value` if it is something else.
        """
        parts = self._parts
        if parts is None:
            return self.objects("messages", raw)
        return self._checked(raw, parts.messages, is_proven=raw is parts.raw)

    def tree(self, name: str, raw: Raw, *, depth: int = 2) -> Json:
        """A value of any form, decoded and checked all the way down.

        Args:
            name: what to call it in an error.
            raw: its text.
            depth: how many arrays and objects it stands in, itself included.

        Raises:
            ApiError: 400, for a key twice, too much depth, too many values, or a number that readers take differently.
        """
        text = bytes(raw)
        opens = text.count(b"[") + text.count(b"{")
        bound = 1 + opens + text.count(b",")
        if self.nodes + bound > NODES_MAX:
            bound = _require_fewer_nodes(text, NODES_MAX - self.nodes)
        self._count(bound)
        try:
            value: Json = _TREE.decode(text)
        except RecursionError as error:
            raise _too_deep() from error
        except msgspec.DecodeError as error:
            raise invalid_value(name, _reason(error)) from error
        if depth + opens > DEPTH_MAX:
            _require_shallow(value, DEPTH_MAX - depth + 1)
        if not self._proven and _ENCODE(value) != text:
            _read_exactly(text)
        if _LONG_INTEGER in text.translate(_DIGITS_AS_ZERO):
            _require_safe_integers(name, value)
        return value

    def _checked(self, raw: Raw, items: list[dict[str, Raw]], *, is_proven: bool) -> list[dict[str, Raw]]:
        self._count(1 + sum(map(len, items)) + len(items))
        if not is_proven and not self._proven and not is_array_proven(raw, items):
            _read_exactly(bytes(raw))
        return items

    def _count(self, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > NODES_MAX:
            raise _too_many_nodes()


def shown(name: str) -> str:
    """A client's own word, short enough to be repeated to it."""
    return name[:_NAME_SHOWN_CHARS]


def _read_exactly(text: bytes) -> None:
    if text.count(b",") > _EXACT_COMMAS_MAX:
        raise _not_read_exactly()
    # Numbers stay text here: a range is checked where the meaning of the number is known.
    try:
        json.loads(text, object_pairs_hook=_require_unique, parse_int=str, parse_float=str)
    except RecursionError as error:
        raise _too_deep() from error


def _require_unique(pairs: Sequence[tuple[str, object]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        name, _times = Counter(name for name, _ in pairs).most_common(1)[0]
        raise duplicate_key(shown(name))


def _require_fewer_nodes(text: bytes, nodes_max: int) -> int:
    """Count the values outside strings, without decoding them; an empty array or object may count twice."""
    _require_few_strings(text, nodes_max)
    bare = _outside_strings(text)
    nodes = 1 + bare.count(b",") + bare.count(b"[") + bare.count(b"{")
    if nodes > nodes_max:
        raise _too_many_nodes()
    return nodes


def _require_few_objects(text: bytes) -> None:
    if text.count(b"{") > NODES_MAX:
        _require_few_strings(text, NODES_MAX)
        if _outside_strings(text).count(b"{") > NODES_MAX:
            raise _too_many_nodes()


def _outside_strings(text: bytes) -> bytes:
    """What of a good JSON text stands between its strings, which are few."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(text.split(b'"')[::2])


def _require_few_strings(text: bytes, nodes_max: int) -> None:
    """Refuse what certainly has too many strings; cutting them out one by one would take long.

    Quotes less the escaped ones are at least the strings and at most twice as many: a closing quote may stand behind
    an escaped backslash, an opening one never does. Half of the strings may be keys.
    """
    if text.count(b'"') - text.count(b'\\"') > 4 * nodes_max + 2:
        raise _too_many_nodes()


def _require_shallow(value: Json, levels_max: int) -> None:
    # Level by level, without recursion and without calls: large tool definitions come with every request of an agent.
    level = [value] if type(value) is dict or type(value) is list else []
    for _ in range(levels_max):
        if not level:
            return
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
    if level:
        raise _too_deep()


def _require_safe_integers(name: str, value: Json) -> None:
    level: list[Json] = [value]
    while level:
        if any(isinstance(node, int) and abs(node) > INTEGER_MAX for node in level):
            raise invalid_value(name, "integers beyond 2^53 are not safe in JSON")
        level = [child for node in level for child in _children(node)]


def _children(node: Json) -> Sequence[Json]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else ()


def _reason(error: msgspec.DecodeError) -> str:
    return str(error).removeprefix("JSON is malformed: ").split(" - at ", 1)[0]


def _too_deep() -> ApiError:
    return invalid_json(f"it nests deeper than {DEPTH_MAX}")


def _not_read_exactly() -> ApiError:
    return invalid_json("in a body of this size no key may be repeated or written with escapes")


def _too_many_nodes() -> ApiError:
    return invalid_json(f"it has more than {NODES_MAX:,} values")
