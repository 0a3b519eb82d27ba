"""Bodies that take longest to read among all that the size limit lets in: good ones and bad ones."""

from __future__ import annotations

from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS

BODY_BYTES_MAX = 4 * 2**20
_CHAT = b'{"model":"m","messages":[{"role":"user","content":"x"}],'
_TEXT = b'{"model":"m","messages":[{"role":"user","content":"'
_PART = b'{"model":"m","messages":[{"role":"user","content":['


def _full(start: bytes, unit: bytes, end: bytes, comma: bytes = b",") -> bytes:
    """As many units as there is room for."""
    times = (BODY_BYTES_MAX - len(start) - len(end)) // (len(unit) + len(comma))
    return start + comma.join([unit] * times) + end


def _times(start: bytes, unit: bytes, end: bytes, times: int) -> bytes:
    return start + b",".join([unit] * times) + end


def _texts() -> dict[str, tuple[str, bytes]]:
    """One text of 4 MiB."""
    units = {
        "letters": b"a",
        "marks": b":[{,",
        "line ends": b"\\n",
        "quotes": b'\\"',
        "colons and quotes": b':\\"',
        "escapes": b"\\u00e9",
        "pairs": b"\\ud83d\\ude00",
        "backslashes": b"\\\\",
        "emoji": "😀".encode(),
    }
    rows = {f"text of {name}": (CHAT, _full(_TEXT, unit, b'"}]}', b"")) for name, unit in units.items()}
    odd = _TEXT.replace(b'"model":', b'"mod\\u0065l" :')
    rows |= {f"odd keys, text of {name}": (CHAT, _full(odd, unit, b'"}]}', b"")) for name, unit in units.items()}
    rows["text that is no UTF-8 in the end"] = (CHAT, _full(_TEXT, "é".encode(), b'\xff"}]}', b""))
    rows["text without end"] = (CHAT, _full(_TEXT, b'\\"', b"", b""))
    rows["spaces"] = (CHAT, _full(_CHAT[:-1], b" ", b"}", b""))
    return rows


def _structures() -> dict[str, tuple[str, bytes]]:
    """Many values, many keys, much depth."""
    keys = b",".join(b'"%x":1' % number for number in range(420_000))
    long_keys = b",".join(b'"%0190d":1' % number for number in range(19_000))
    deep = b"[" * 2_000_000 + b"]" * 2_000_000
    return {
        "empty arrays": (CHAT, _full(_CHAT + b'"tools":[', b"[]", b"]}")),
        "empty strings": (CHAT, _full(_CHAT + b'"tools":[{"a":[', b'""', b"]}]}")),
        "strings of a backslash": (CHAT, _full(_CHAT + b'"tools":[{"a":[', b'"\\\\"', b"]}]}")),
        "many keys": (CHAT, b"{%b}" % keys),
        "long keys": (CHAT, _CHAT + long_keys + b"}"),
        "one key of escapes": (CHAT, _full(b'{"', b"\\u0061", b'":1}', b"")),
        "depth": (CHAT, b"[" * BODY_BYTES_MAX),
        "depth of objects": (CHAT, b'{"a":' * 800_000),
        "depth in tools": (CHAT, b'%b"tools":%b}' % (_CHAT, deep)),
        "depth in a prompt": (COMPLETIONS, b'{"model":"m","prompt":%b}' % deep),
        "a number of 4 million digits": (CHAT, _CHAT + b'"temperature":1.' + b"1" * 4_000_000 + b"}"),
        "an integer of 4 million digits": (CHAT, _CHAT + b'"tools":[{"a":' + b"1" * 4_000_000 + b"}]}"),
        "long integers": (CHAT, _times(_CHAT + b'"tools":[{"a":[', b"1" * 200, b"]}]}", 18_000)),
        "messages": (CHAT, _times(b'{"model":"m","messages":[', b'{"role":"user","content":"x"}', b"]}", 6_000)),
        "spaced messages": (CHAT, _times(b'{"model":"m","messages":[', b'{"role" : "user"}', b"]}", 9_900)),
        "parts": (CHAT, _times(_PART, b'{"type":"text","text":"%b"}' % (b"x" * 750), b"]}]}", 4_900)),
        "pictures": (
            CHAT,
            _times(_PART, b'{"type":"image_url","image_url":{"url" :"data:,%b"}}' % (b"x" * 750), b"]}]}", 3_500),
        ),
        "patterns": (
            CHAT,
            _times(
                _CHAT + b'"tools":[',
                b'{"a":[%b]}' % b",".join([b'{"pattern":"%b"}' % (b"(a{1}" * 30)] * 50),
                b"]}",
                127,
            ),
        ),
        "tools of escapes": (CHAT, _times(_CHAT + b'"tools":[', b'{"a":"%b"}' % (b"\\u00e9" * 10_900), b"]}", 62)),
    }


def _prompts() -> dict[str, tuple[str, bytes]]:
    """Token ids, and lists of prompts."""
    ids, start = b",".join([b"12"] * 999_999), b'{"model":"m","prompt":['
    return {
        "token ids": (COMPLETIONS, start + ids + b"]}"),
        "spaced token ids": (COMPLETIONS, start.replace(b":", b": ") + ids.replace(b",", b", ") + b"]}"),
        "token ids and an odd key": (COMPLETIONS, start.replace(b"model", b"mod\\u0065l") + ids + b"]}"),
        "too many token ids": (COMPLETIONS, _full(start, b"1", b"]}")),
        "token ids and a text in the end": (COMPLETIONS, start + ids + b',"a"]}'),
        "lists of token ids": (COMPLETIONS, _times(start, b"[%b]" % b",".join([b"12"] * 15_600), b"]}", 64)),
        "inputs of token ids": (
            EMBEDDINGS,
            _times(b'{"model":"m","input":[', b"[%b]" % b",".join([b"12"] * 480), b"]}", 2_048),
        ),
        "inputs of escapes": (
            EMBEDDINGS,
            _times(b'{"model":"m","input":[', b'"%b"' % (b"\\u00e9" * 330), b"]}", 2_048),
        ),
        "empty inputs": (EMBEDDINGS, _full(b'{"model":"m","input":[', b'""', b"]}")),
    }


WORST = {name: row for rows in (_texts(), _structures(), _prompts()) for name, row in rows.items()}
"""Endpoint and body by name."""
