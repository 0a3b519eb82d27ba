"""The length proof and its fallbacks agree with an exact reader, on every text and in every spacing."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec import Raw

from gateway.api.strict_json import _EXACT_COMMAS_MAX, DEPTH_MAX, NODES_MAX, StrictReader, shown
from gateway.errors import ApiError

KEYS = st.sampled_from(["a", "b", "n", "é", "\\u0061", "\\n", "", ":", ", "])
GAPS = st.sampled_from(["", "", "", " ", "\n", "\t ", "  "])
SCALARS = st.sampled_from(
    ["1", "-0", "1.0", "1e5", "true", "null", '"x"', '"a\\":1,\\"a"', '"é"', '"\\u00e9"', '""', "[]", "{}"]
)


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    """The text of an object that may hold a key twice, in any spacing."""
    pairs = draw(st.lists(st.tuples(KEYS, GAPS, GAPS, values, GAPS, GAPS), max_size=5))
    inside = ",".join(f'{before}"{key}"{a}:{b}{value}{after}' for key, a, b, value, before, after in pairs)
    return "{" + (inside or draw(GAPS)) + "}"


@st.composite
def arrays(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    """The text of an array, in any spacing."""
    items = draw(st.lists(st.tuples(GAPS, values, GAPS), max_size=4))
    return "[" + ",".join(f"{before}{value}{after}" for before, value, after in items) + "]"


FLAT = objects(SCALARS)
NESTED = objects(SCALARS | objects(SCALARS | arrays(SCALARS)) | arrays(objects(SCALARS)))


def says_twice(text: str, *, nested: bool = True) -> bool:
    """What an exact reader finds; without `nested`, at the outer level alone."""
    found: list[bool] = []

    def take(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found.append(len(dict(pairs)) < len(pairs))
        return dict(pairs)

    json.loads(text, object_pairs_hook=take)
    return any(found) if nested else found[-1]


def code(read: Callable[[], object]) -> str:
    """The code of the error, or nothing."""
    try:
        read()
    except ApiError as error:
        return error.code
    return ""


def raw(text: str) -> Raw:
    return msgspec.json.decode(f"[{text}]".encode(), type=list[Raw])[0]


@given(FLAT, GAPS)
def test_root_finds_a_key_twice(text: str, gap: str) -> None:
    """Exactly when an exact reader does; and otherwise every field is there, as it stands in the text."""
    body = f"{gap}{text}{gap}".encode()
    if says_twice(text):
        assert code(lambda: StrictReader().root(body)) == "duplicate_key"
    else:
        fields = StrictReader().root(body)
        assert {name: json.loads(bytes(value)) for name, value in fields.items()} == json.loads(text)


@given(NESTED)
def test_tree_finds_a_key_twice_at_any_depth(text: str) -> None:
    """Exactly when an exact reader does, and the value is the same."""
    if says_twice(text):
        assert code(lambda: StrictReader().tree("x", raw(text))) == "duplicate_key"
    else:
        assert StrictReader().tree("x", raw(text)) == json.loads(text)


@given(FLAT)
def test_object_finds_a_key_twice(text: str) -> None:
    """Parts of a body are read as strictly as the whole."""
    assert (code(lambda: StrictReader().object("x", raw(text))) == "duplicate_key") == says_twice(text)


@given(st.lists(FLAT, max_size=4), st.sampled_from([",", ", ", " ,\n"]))
def test_objects_find_a_key_twice(texts: list[str], comma: str) -> None:
    """In any of them."""
    text = f"[{comma.join(texts)}]"
    twice = any(map(says_twice, texts))
    assert (code(lambda: StrictReader().objects("x", raw(text))) == "duplicate_key") == twice


@given(NESTED)
def test_a_body_read_whole_and_in_parts_finds_a_key_twice(text: str) -> None:
    """What the exact reader saw at the root needs no second look; what it did not see gets one."""

    def read() -> None:
        reader = StrictReader()
        for value in reader.root(text.encode()).values():
            reader.tree("x", value)

    assert (code(read) == "duplicate_key") == says_twice(text)


@pytest.mark.parametrize("indent", [None, 0, 3])
@pytest.mark.parametrize("spacing", [(",", ":"), (", ", ": "), ("\t,\r\n ", " : ")])
def test_only_escaped_keys_need_the_exact_reader(
    spacing: tuple[str, str], indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast ways really are taken, however a text is spaced."""
    exact: list[bytes] = []
    monkeypatch.setattr("gateway.api.strict_json._read_exactly", exact.append)
    value = {"a": [{"b": "é: x", "c": 1}, {}], "d": {"e": None}}
    reader = StrictReader()
    fields = reader.root(json.dumps(value, separators=spacing, indent=indent, ensure_ascii=False).encode())
    assert list(map(len, reader.objects("a", fields["a"]))) == [2, 0]
    assert list(reader.object("d", fields["d"])) == ["e"]
    assert exact == []
    StrictReader().root(b'{"\\u0061":1}')
    assert exact == [b'{"\\u0061":1}']


@pytest.mark.parametrize(("keys", "short"), [(b'"a":1,"a"', "duplicate_key"), (b'"\\u0061"', "")])
def test_the_exact_reader_reads_nothing_long(keys: bytes, short: str) -> None:
    """It would hold up everybody: whoever repeats a key or escapes it among so many values is refused unread."""
    ids = b"1," * (_EXACT_COMMAS_MAX + 1) + b"1"
    assert code(lambda: StrictReader().root(b"{%b:[%b]}" % (keys, ids))) == "invalid_json"
    assert code(lambda: StrictReader().root(b"{%b:[%b]}" % (keys, ids[4:]))) == short


@pytest.mark.parametrize("string", ['""', '"\\\\"', '"\\""', '","'])
@pytest.mark.parametrize("form", ["[%s]", '{"a":[%s]}'])
def test_too_many_strings_are_too_many_values(string: str, form: str) -> None:
    """Also where most of them would have to be cut out to count the rest; at the limit itself they are read."""
    many = raw(form % ",".join([string] * (4 * NODES_MAX)))
    assert code(lambda: StrictReader().tree("x", many)) == "invalid_json"
    some = raw(form % ",".join([string] * (NODES_MAX - 4)))
    assert code(lambda: StrictReader().tree("x", some)) == ""


def test_many_strings_as_keys_and_values_are_read_to_the_limit() -> None:
    """The bound on strings never refuses what the bound on values takes."""
    pairs = ",".join(f'"{number}":"[,"' for number in range(NODES_MAX - 10))
    assert code(lambda: StrictReader().tree("x", raw(f"{{{pairs}}}"))) == ""
    assert len(StrictReader().root(f"{{{pairs}}}".encode())) == NODES_MAX - 10


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_has_an_exact_limit(opening: str, closing: str) -> None:
    """The last depth that is taken, and the first that is not."""

    def nested(levels: int) -> Raw:
        return raw(opening * levels + ("1" if closing == "}" else "") + closing * levels)

    assert StrictReader().tree("x", nested(DEPTH_MAX - 1), depth=2)
    assert code(lambda: StrictReader().tree("x", nested(DEPTH_MAX), depth=2)) == "invalid_json"
    assert code(lambda: StrictReader().tree("x", nested(DEPTH_MAX - 1), depth=3)) == "invalid_json"


def test_any_greater_depth_is_refused_the_same_way() -> None:
    """Also where a decoder meets the end of the stack, which is elsewhere for each."""

    def read(body: bytes) -> None:
        reader = StrictReader()
        reader.tree("a", reader.root(body)["a"])

    for levels in (70, 200, 500, *range(800, 1_010), 1_300):
        for text in ('{"a":%s%s}', '{"a" : %s%s}'):
            body = (text % ("[" * levels, "]" * levels)).encode()
            assert code(lambda body=body: read(body)) == "invalid_json"  # type: ignore[misc]


def test_brackets_in_texts_are_no_depth() -> None:
    """A prompt may be full of them."""
    text = json.dumps({"a": "[{" * 500})
    assert StrictReader().tree("x", raw(text)) == json.loads(text)


def test_values_are_counted_over_the_whole_body() -> None:
    """Many small parts weigh as much as one large one; commas in texts weigh nothing."""
    half = raw("[" + "0," * (NODES_MAX // 2) + "0]")
    reader = StrictReader()
    reader.tree("x", half)
    reader.tree("x", raw(json.dumps(["," * NODES_MAX])))
    assert code(lambda: reader.tree("x", half)) == "invalid_json"


def test_objects_are_counted() -> None:
    """Each with its fields."""
    assert code(lambda: StrictReader().objects("x", raw("[" + "{}," * NODES_MAX + "{}]"))) == "invalid_json"


def test_a_long_body_full_of_colons_in_its_text_is_taken() -> None:
    """The stop for bodies of too many members looks at structure alone."""
    text = json.dumps({"a": ":[{" * 200_000})
    assert list(StrictReader().root(text.encode())) == ["a"]


@pytest.mark.parametrize("number", ["9007199254740992", "-9007199254740992", "1e300", '"99999999999999999999"'])
def test_numbers_that_all_readers_take_alike_pass(number: str) -> None:
    """Up to 2^53; digits in a text are no number."""
    assert StrictReader().tree("x", raw(f"[{number}]")) == [json.loads(number)]


@pytest.mark.parametrize("number", ["9007199254740993", "-9007199254740993", "1e400", "-1e400", "1" * 5_000])
def test_numbers_that_readers_take_differently_do_not(number: str) -> None:
    """Beyond 2^53 a reader of doubles sees another integer, and beyond 1e308 infinity."""
    assert code(lambda: StrictReader().tree("x", raw(f'{{"a":[{number}]}}'))) == "invalid_value"


@pytest.mark.parametrize("text", ["[]", "1", "null", '"x"', "[{}]"])
def test_what_is_no_object_is_refused(text: str) -> None:
    """With the name of the field."""
    with pytest.raises(ApiError, match="'x': expected an object"):
        StrictReader().object("x", raw(text))


def test_names_are_shown_short() -> None:
    """A client's megabyte of a name is not sent back to it."""
    assert shown("k" * 1_000_000) == "k" * 64


@pytest.mark.parametrize("filler", ["", "x" * 20_000], ids=["short", "long"])
@pytest.mark.parametrize(
    ("spaced", "twice"),
    [
        ('{"a": 1, "b": {"c": 2}}', '{"a": 1, "b": {"c": 2}, "a":1}'),
        ('{"a": 1}', '{"a": 3, "a": 1}'),
        ('{"n": 12345678}', '{"n": 1,"n":123}'),
        ("{}", '{"":1,"":2}'),
    ],
)
def test_the_common_spacing_is_known_at_any_length(spaced: str, twice: str, filler: str) -> None:
    """A key that came twice is found behind a long value as well as behind a short one."""
    first = f'{{"p": "{filler}"' + (", " if spaced != "{}" else "")
    assert StrictReader().root((first + spaced[1:]).encode())
    with pytest.raises(ApiError, match="more than once"):
        StrictReader().root((f'{{"p": "{filler}", ' + twice[1:]).encode())
    raws = StrictReader().root(f'{{"m": [{first + spaced[1:]}, {spaced}]}}'.encode())
    assert len(StrictReader().objects("m", raws["m"])) == 2
    raws = StrictReader().root(f'{{"m": [{{"p": "{filler}"}}, {twice}]}}'.encode())
    with pytest.raises(ApiError, match="more than once"):
        StrictReader().objects("m", raws["m"])
