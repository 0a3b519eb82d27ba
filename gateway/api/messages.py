"""The messages of a chat: who speaks, in what parts, and how much of it is pictures and sound instead of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from msgspec import Raw

from gateway.api import fields as f
from gateway.api.strict_json import StrictReader
from gateway.errors import invalid_value, unsupported_parameter

_ROLES = frozenset(b'"%b"' % role for role in (b"system", b"developer", b"user", b"assistant", b"tool", b"function"))
_TEXT_FIELDS = frozenset(("name", "tool_call_id", "refusal", "reasoning", "reasoning_content"))
_TREE_FIELDS = frozenset(("function_call", "audio", "annotations"))
_CALL_FIELDS = frozenset(("id", "type", "index", "function", "custom"))
_PART_FIELDS = frozenset(("type", "prompt_cache_breakpoint", "cache_control"))
_TEXT_PARTS = {"text": "text", "refusal": "refusal", "thinking": "thinking"}
_MEDIA_PARTS = {"image_url": "url", "video_url": "url", "audio_url": "url", "input_audio": "data"}
_MEDIA_FIELDS = frozenset(("url", "data", "detail", "format"))
_DATA_URL = b'"data:'
_URL_BYTES_MAX = 4_096


@dataclass(slots=True)
class Messages:
    """What counts of a chat's messages."""

    count: int
    media: int = 0
    """Pictures, sounds and films."""
    media_bytes: int = 0
    """Length of their data inside the JSON."""


class MessageReader:
    """Reads the messages of one body.

    Args:
        reader: of the same body.
        remote_hosts: hosts from which an engine may fetch media. Without any, media must be inside the body.
    """

    __slots__ = ("_hosts", "_reader")

    def __init__(self, reader: StrictReader, remote_hosts: frozenset[str] = frozenset()) -> None:
        self._reader = reader
        self._hosts = remote_hosts

    def read(self, raw: Raw) -> Messages:
        """Check every message.

        Raises:
            ApiError: 400, with the path of what is wrong.
        """
        messages = self._reader.messages(raw)
        if not messages:
            raise invalid_value("messages", "at least one message is needed")
        result = Messages(len(messages))
        for index, message in enumerate(messages):
            role = message.get("role")
            if role is None or bytes(role) not in _ROLES:
                raise invalid_value(f"messages[{index}].role", "it is missing or unknown")
            for name, value in message.items():
                if name == "content":
                    if not f.is_text(value) and not f.is_null(value):
                        self._read_parts(f"messages[{index}].content", value, result)
                elif name != "role":
                    self._read_field(f"messages[{index}]", name, value)
        return result

    def _read_field(self, path: str, name: str, raw: Raw) -> None:
        where = f"{path}.{name}"
        if f.is_null(raw) and (name in _TEXT_FIELDS or name in _TREE_FIELDS or name == "tool_calls"):
            return
        if name in _TEXT_FIELDS:
            if not f.is_text(raw):
                raise invalid_value(where, "expected a string")
        elif name == "tool_calls":
            for call in self._reader.objects(where, raw):
                self._read_call(where, call)
        elif name in _TREE_FIELDS:
            if not isinstance(self._reader.tree(where, raw, depth=4), dict | list):
                raise invalid_value(where, "expected an object")
        elif name in ("prefix", "partial"):
            f.read_bool(where, raw)
        else:
            raise f.unknown(where)

    def _read_call(self, where: str, call: Mapping[str, Raw]) -> None:
        for name, raw in call.items():
            if name not in _CALL_FIELDS:
                raise f.unknown(f"{where}.{name}")
            if name in ("function", "custom"):
                self._reader.tree(f"{where}.{name}", raw, depth=6)
            elif name == "index":
                f.read_int(f"{where}.{name}", raw, 0, 1_000)
            elif not f.is_null(raw) and not f.is_text(raw):
                raise invalid_value(f"{where}.{name}", "expected a string")

    def _read_parts(self, path: str, raw: Raw, result: Messages) -> None:
        for index, part in enumerate(self._reader.objects(path, raw)):
            where = f"{path}[{index}]"
            kind = f.read_text(f"{where}.type", part["type"]) if "type" in part else ""
            if kind in _TEXT_PARTS:
                own = _TEXT_PARTS[kind]
                f.read_text(f"{where}.{own}", _required(where, part, own))
            elif kind in _MEDIA_PARTS:
                own = kind
                result.media += 1
                result.media_bytes += self._read_media(where, kind, _required(where, part, own))
            else:
                raise invalid_value(f"{where}.type", "it is missing or not supported here")
            for name, value in part.items():
                if name in _PART_FIELDS:
                    f.anything(f"{where}.{name}", value, self._reader)
                elif name != own:
                    raise f.unknown(f"{where}.{name}")

    def _read_media(self, where: str, kind: str, raw: Raw) -> int:
        path = f"{where}.{kind}"
        media = self._reader.object(path, raw)
        for name, value in media.items():
            if name not in _MEDIA_FIELDS:
                raise f.unknown(f"{path}.{name}")
            if not f.is_text(value) and not f.is_null(value):
                raise invalid_value(f"{path}.{name}", "expected a string")
        source = _MEDIA_PARTS[kind]
        data = _required(path, media, source)
        if not f.is_text(data):
            raise invalid_value(f"{path}.{source}", "expected a string")
        if source == "url" and memoryview(data)[: len(_DATA_URL)] != _DATA_URL:
            self._require_allowed_host(f"{path}.{source}", data)
        return len(data)

    def _require_allowed_host(self, path: str, raw: Raw) -> None:
        # Two readers of an odd URL can see two hosts in it, so an odd one is no URL here.
        url = f.read_text(path, raw) if len(raw) <= _URL_BYTES_MAX else ""
        plain = url.isascii() and url.isprintable() and not any(character in url for character in ' \\"<>@')
        try:
            parts = urlsplit(url)
            allowed = plain and parts.scheme in ("http", "https") and parts.hostname in self._hosts
        except ValueError:
            allowed = False
        if not allowed:
            raise unsupported_parameter(path, "send the media itself, as a data: URL")


def _required(where: str, fields: Mapping[str, Raw], name: str) -> Raw:
    if name not in fields:
        raise invalid_value(f"{where}.{name}", "it is missing")
    return fields[name]
