"""Bodies that must never reach an engine, each with its answer: for the tests of the parser and of the server."""

from __future__ import annotations

import json
from dataclasses import dataclass

from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS

JSON = "invalid_json"
TWICE = "duplicate_key"
VALUE = "invalid_value"
FIELD = "unsupported_parameter"
MODEL = "model_not_found"
MESSAGES = '"messages":[{"role":"user","content":"hi"}]'


@dataclass(frozen=True, slots=True)
class Hostile:
    """One body and the error that answers it."""

    endpoint: str
    body: bytes
    code: str
    param: str | None = None

    def __str__(self) -> str:
        return f"{self.code}:{self.param}:{self.body[:60]!r}"


def chat(more: str) -> bytes:
    """A good chat body with this text after its fields."""
    return f'{{"model":"m",{MESSAGES},{more}}}'.encode()


def message(more: str) -> bytes:
    """A chat body whose one message has these fields."""
    return f'{{"model":"m","messages":[{{{more}}}]}}'.encode()


def parts(*items: str) -> bytes:
    """A chat body whose one message has these parts."""
    return message(f'"role":"user","content":[{",".join(items)}]')


def _whole() -> list[Hostile]:
    """Bodies that are not one strict JSON object."""
    good = chat('"n":1').decode()
    surrogates = ("\\ud800", "\\udc00", "\\ud800\\ud800", "\\udc00\\ud800", "\\ud83dx", "\\uDBFF\\u0041")
    bodies = [
        *(b"", b" ", b"\n", b"null", b"true", b"1", b'"x"', b"[]", b"[{}]", b"{", b"}", b"{]", b"{}{}", b"{} x"),
        *(b"{'model':'m'}", b'{"model"}', b'{"model":}', b'{"model":"m",}', b'{,"model":"m"}', b'{model:"m"}'),
        *(b"model=m&prompt=x", b"<xml/>", b"\x00{}", b"{}\x00", b'{"model":"m" /* c */}', b'// c\n{"model":"m"}'),
        *(good.encode()[:cut] for cut in (5, 20, 45, len(good) - 1)),
        *(good.encode(form) for form in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")),
        *(message('"role":"user","content":"@"').replace(b"@", bad) for bad in _not_utf8()),
        *(message(f'"role":"user","content":"{text}"') for text in surrogates),
        *(message(f'"role":"user","content":"{text}"') for text in ("\x01", "\n", "\t", "\\x41", "\\u12", "\\u00zz")),
        *(
            chat(f'"temperature":{text}')
            for text in ("NaN", "Infinity", "-Infinity", "+1", "01", "1.", ".5", "1e", "0x1")
        ),
        chat('"tools":' + "[" * 63 + "]" * 64),
        chat('"user":' + "[" * 100_000 + "]" * 100_000),
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    ]
    return [Hostile(CHAT, body, JSON) for body in bodies]


def _not_utf8() -> list[bytes]:
    return [b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe0\x80\x80", b"caf\xe9"]


def _deep_and_many() -> list[Hostile]:
    """Bodies that are good JSON, but too deep or too many values."""
    tool = '{"type":"function","function":%s}'
    bodies = [
        chat('"tools":[' + tool % ('{"a":' * 62 + "1" + "}" * 62) + "]"),
        chat('"metadata":{"a":' + "[" * 63 + "]" * 63 + "}"),
        message('"role":"assistant","function_call":{"a":' + "[" * 61 + "]" * 61 + "}"),
        chat('"tools":[{"a":[' + "0," * 25_000 + "0]}]"),
        chat('"metadata":{"a":[' + ",".join(["[]"] * 4_000) + "]}," + '"tools":[{"a":[' + "0," * 18_000 + "0]}]"),
        ("{" + ",".join(f'"k{i}":1' for i in range(30_000)) + "}").encode(),
        ("{" + ",".join(f'"k{i}":1' for i in range(60_000)) + "}").encode(),
        ('{"model":"m","messages":[' + ",".join(["{}"] * 30_000) + "]}").encode(),
        ('{"model":"m","messages":[' + ",".join(["{}"] * 200_000) + "]}").encode(),
    ]
    return [Hostile(CHAT, body, JSON) for body in bodies]


def _twice() -> list[Hostile]:
    """The same key twice in one object, however it is written and wherever it stands."""
    call = '"role":"assistant","tool_calls":[{"id":"c","type":"function","function":{"name":"f",%s}}]'
    image = '{"type":"image_url","image_url":{"url":"data:,a","url":"http://evil/"}}'
    rows = [
        (chat('"max_tokens":1,"max_tokens":99999'), "max_tokens"),
        (chat('"max_tokens":1, "max_tokens":99999'), "max_tokens"),
        (chat('"n":1,"n":1'), "n"),
        (chat('"max_tokens":1,"max\\u005ftokens":9'), "max_tokens"),
        (chat('"max_tokens" : 1 , "max_tokens" : 9'), "max_tokens"),
        (json.dumps({"model": "m", "messages": [], "n": 1, "@": 2}).replace("@", "n").encode(), "n"),
        (json.dumps({"model": "m", "n": 1, "@": 2}, indent=2).replace("@", "n").encode(), "n"),
        (b'{"model":"m","model":"m",' + MESSAGES.encode() + b"}", "model"),
        (chat(MESSAGES), "messages"),
        (chat('"zzz":1,"zzz":2'), "zzz"),
        (message('"role":"user","role":"system","content":"x"'), "role"),
        (message('"role":"user","content":"x","content":"y"'), "content"),
        (message('"role": "user", "content": "x", "content": "y"'), "content"),
        (parts('{"type":"text","text":"a","text":"b"}'), "text"),
        (parts(image), "url"),
        (message(call % '"arguments":"1","arguments":"2"'), "arguments"),
        (message('"role":"user","content":"x"},{"role":"user","role":"tool"'), "role"),
        (chat('"tools":[{"type":"function","function":{"name":"f","name":"g"}}]'), "name"),
        (chat('"stream":true,"stream_options":{"include_usage":false,"include_usage":true}'), "include_usage"),
        (chat('"metadata":{"a":{"b":1,"b":2}}'), "b"),
        (chat('"logit_bias":{"1":1,"1":2}'), "1"),
        (chat('"response_format":{"type":"text","type":"json_object"}'), "type"),
    ]
    return [Hostile(CHAT, body, TWICE, param) for body, param in rows]


def _limits() -> list[Hostile]:
    """Output limits and numbers of sequences: what the ledger counts by."""
    bad_limits = (
        "0",
        "-1",
        '"5"',
        "1.0",
        "1.5",
        "true",
        "[1]",
        "{}",
        "1e3",
        "1e308",
        "9223372036854775808",
        "2147483648",
    )
    rows = [
        *((chat(f'"max_tokens":{text}'), "max_tokens") for text in bad_limits),
        *((chat(f'"max_completion_tokens":{text}'), "max_completion_tokens") for text in bad_limits),
        (chat('"max_tokens":5,"max_completion_tokens":6'), "max_tokens"),
        *((chat(f'"n":{text}'), "n") for text in ("0", "-1", "9", "129", '"2"', "2.0", "true", "1e1")),
        *((chat(f'"min_tokens":{text}'), "min_tokens") for text in ("-1", '"1"', "1.0")),
        (chat('"max_tokens":5,"min_tokens":6'), "min_tokens"),
        *((chat(f'"ignore_eos":{text}'), "ignore_eos") for text in ("1", '"true"', "[]")),
        *((chat(f'"stream":{text}'), "stream") for text in ("1", '"true"', "[]", "{}")),
        (chat('"stream_options":{"include_usage":true}'), "stream_options"),
        (chat('"stream":false,"stream_options":{}'), "stream_options"),
        *((chat(f'"stream":true,"stream_options":{text}'), "stream_options") for text in ("1", "[]", '"x"')),
        (chat('"stream":true,"stream_options":{"include_usage":1}'), "stream_options"),
    ]
    return [Hostile(CHAT, body, VALUE, param) for body, param in rows]


def _sampling() -> list[Hostile]:
    """Other fields out of their ranges."""
    names = {
        "temperature": ("-0.1", "2.1", '"1"', "true", "1e400", "-1e400", "[]"),
        "top_p": ("-0.1", "1.1", '"1"', "{}"),
        "min_p": ("2",),
        "frequency_penalty": ("-2.1", "2.1", "[]"),
        "presence_penalty": ("-3", "3", '"0"'),
        "repetition_penalty": ("-1", "11"),
        "top_k": ("-2", "1.5", "2147483648"),
        "seed": ("9223372036854775808", "1.5", '"1"', "1e3", "1" * 5_000),
        "top_logprobs": ("21", "-1", "true"),
        "logprobs": ("5", '"true"'),
        "stop": ("5", json.dumps(["x"] * 17), '["a",1]', "{}", json.dumps("x" * 2_000)),
        "stop_token_ids": ("5", "[-1]", '["1"]', "[true]", json.dumps([1] * 129), "[2147483648]"),
        "logit_bias": ("[]", '{"x":1}', '{"1":101}', '{"1":"1"}', '{"1":true}', '{"1":null}', '{"1":1e400}'),
        "tools": ("{}", "[1]", '"x"', json.dumps([{}] * 129), '[{"a":1e400}]', '[{"a":9007199254740993}]'),
        "functions": ("{}", "[[]]", json.dumps([{}] * 129)),
        "metadata": ("[]", '"x"', '{"a":18446744073709551616}', '{"a":' + "1" * 5_000 + "}"),
        "response_format": ("[]", '"json"', "{}", '{"type":"regex"}', '{"type":"grammar"}'),
        "tool_choice": ("1", "[]"),
        "web_search_options": ("[]", "1"),
        "modalities": ('["video"]', '"text"', "[1]", "[[]]"),
        "user": ("1", "{}", json.dumps("x" * 2_000)),
        "store": ("1",),
        "chat_template_kwargs": ("[]", '{"a":{}}', json.dumps({"a": "x" * 5_000})),
    }
    rows = [Hostile(CHAT, chat(f'"{name}":{text}'), VALUE, name) for name, texts in names.items() for text in texts]
    many = json.dumps({str(token): 1 for token in range(1_025)})
    large = json.dumps([{"type": "function", "function": {"name": "f", "description": "x" * 70_000}}])
    return [
        *rows,
        Hostile(CHAT, chat(f'"logit_bias":{many}'), VALUE, "logit_bias"),
        Hostile(CHAT, chat(f'"tools":{large}'), VALUE, "tools"),
        *(Hostile(CHAT, chat(f'"{name}":{text}'), VALUE, name) for name, text in _pattern_bombs()),
    ]


def _pattern_bombs() -> list[tuple[str, str]]:
    """Schemas with patterns of which an engine would build an automaton of gigabytes."""
    bombs = ("((a{100}){100}){100}", "a{999999999}", "(a{9999}){9999}", "a" * 2_000)
    schemas = [
        *(f'{{"properties":{{"a":{{"type":"string","pattern":"{bomb}"}}}}}}' for bomb in bombs),
        f'{{"patternProperties":{{"{bombs[0]}":{{}}}}}}',
        f'{{"p\\u0061ttern":"{bombs[0]}"}}',
    ]
    formats = (f'{{"type":"json_schema","json_schema":{{"name":"x","schema":{schema}}}}}' for schema in schemas)
    tools = (f'[{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}]' for schema in schemas)
    return [*(("response_format", text) for text in formats), *(("tools", text) for text in tools)]


def _unsafe() -> list[Hostile]:
    """Fields that are unknown, or would reach into the engine."""
    words = (
        "zzz kv_transfer_params bootstrap_host bootstrap_port bootstrap_room chat_template prompt_embeds lora_path"
        " priority request_id rid cache_salt prompt_logprobs truncate_prompt_tokens mm_processor_kwargs api_base"
        " routed_experts structured_outputs guided_json guided_regex use_beam_search best_of prompt input __proto__"
        " n_predict max_new_tokens logits_processors"
    )
    rows = [
        *((chat(f'"{name}":{text}'), name) for name in words.split() for text in ('"x"', "{}")),
        (chat('"":1'), ""),
        (chat('"N":1'), "N"),
        (chat('"model ":"x"'), "model "),
        (chat('"' + "k" * 1_000 + '":1'), "k" * 64),
        (chat('"chat_template_kwargs":{"chat_template":"x"}'), "chat_template_kwargs.chat_template"),
        (chat('"chat_template_kwargs":{"tokenize":false}'), "chat_template_kwargs.tokenize"),
        (chat('"stream":true,"stream_options":{"zzz":true}'), "stream_options.zzz"),
        (message('"role":"user","content":"x","kv_transfer_params":{}'), "messages[0].kv_transfer_params"),
        (message('"role":"user","content":"x","zzz":1'), "messages[0].zzz"),
        (message('"role":"assistant","tool_calls":[{"zzz":1}]'), "messages[0].tool_calls.zzz"),
        (parts('{"type":"text","text":"x","zzz":1}'), "messages[0].content[0].zzz"),
        (parts('{"type":"image_url","image_url":{"url":"data:,","zzz":1}}'), "messages[0].content[0].image_url.zzz"),
    ]
    echo = b'{"model":"m","prompt":"x","echo":true,"logprobs":1}'
    return [*(Hostile(CHAT, body, FIELD, param) for body, param in rows), Hostile(COMPLETIONS, echo, FIELD, "echo")]


def _media() -> list[Hostile]:
    """Media that an engine would have to fetch."""
    urls = (
        *("http://169.254.169.254/x", "https://example.com/a.png", "file:///etc/passwd", "/etc/passwd", "", " data:,"),
        *("ftp://x/y", "//x/y", "DATA:,", "\\\\host\\x", "http://[::1", "gopher://x", "javascript:1", "x" * 5_000),
    )
    kinds = ("image_url", "video_url", "audio_url")
    return [
        Hostile(
            CHAT,
            parts(json.dumps({"type": kind, kind: {"url": url}})),
            FIELD,
            f"messages[0].content[0].{kind}.url",
        )
        for kind in kinds
        for url in urls
    ]


def _messages() -> list[Hostile]:
    """Messages of a wrong form."""
    part = "messages[0].content[0]"
    rows = [
        *(
            (f'{{"model":"m","messages":{text}}}'.encode(), "messages")
            for text in ("[]", "null", '"x"', "{}", "[1]", "[[]]")
        ),
        (b'{"model":"m"}', "messages"),
        (message('"content":"x"'), "messages[0].role"),
        *((message(f'"role":{text}'), "messages[0].role") for text in ('"root"', "1", "null", "[]", '"User"', '""')),
        *((message(f'"role":"user","content":{text}'), "messages[0].content") for text in ("1", "{}", "true", '["x"]')),
        (message('"role":"user","content":"x","name":1'), "messages[0].name"),
        (message('"role":"assistant","tool_calls":{}'), "messages[0].tool_calls"),
        (message('"role":"assistant","tool_calls":[{"id":1}]'), "messages[0].tool_calls.id"),
        (message('"role":"assistant","tool_calls":[{"index":-1}]'), "messages[0].tool_calls.index"),
        (message('"role":"assistant","function_call":"x"'), "messages[0].function_call"),
        (message('"role":"user","content":"x","prefix":1'), "messages[0].prefix"),
        *(
            (parts(text), f"{part}.type")
            for text in ("{}", '{"type":1}', '{"type":"prompt_embeds"}', '{"type":"file"}')
        ),
        (parts('{"type":"text"}'), f"{part}.text"),
        (parts('{"type":"text","text":1}'), f"{part}.text"),
        (parts('{"type":"image_url"}'), f"{part}.image_url"),
        (parts('{"type":"image_url","image_url":"data:,"}'), f"{part}.image_url"),
        (parts('{"type":"image_url","image_url":{}}'), f"{part}.image_url.url"),
        (parts('{"type":"image_url","image_url":{"url":null}}'), f"{part}.image_url.url"),
        (parts('{"type":"input_audio","input_audio":{"data":1}}'), f"{part}.input_audio.data"),
        (parts('{"type":"text","text":"x","cache_control":1e400}'), f"{part}.cache_control"),
    ]
    return [Hostile(CHAT, body, VALUE, param) for body, param in rows]


def _prompts() -> list[Hostile]:
    """Prompts and embedding inputs of a wrong form, and what goes with them."""
    bad = (
        "null",
        "1",
        "{}",
        "true",
        "[]",
        "[null]",
        "[true]",
        "[1.5]",
        "[1.0]",
        "[-1]",
        "[2147483648]",
        '["a",1]',
        "[1,null]",
    )
    more = ('[1,"a"]', "[[]]", "[[1],[]]", "[[-1]]", '[["a"]]', "[[1],2]", "[{}]", "[[[1]]]", "[1e3]")
    rows = [
        *((COMPLETIONS, f'{{"model":"m","prompt":{text}}}'.encode(), "prompt") for text in bad + more),
        *((EMBEDDINGS, f'{{"model":"m","input":{text}}}'.encode(), "input") for text in bad + more),
        (COMPLETIONS, b'{"model":"m"}', "prompt"),
        (EMBEDDINGS, b'{"model":"m"}', "input"),
        (COMPLETIONS, json.dumps({"model": "m", "prompt": ["x"] * 65}).encode(), "prompt"),
        (COMPLETIONS, json.dumps({"model": "m", "prompt": [[1]] * 65}).encode(), "prompt"),
        (COMPLETIONS, b'{"model":"m","prompt":[' + b"1," * 1_000_000 + b"1]}", "prompt"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","best_of":9}', "best_of"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","best_of":0}', "best_of"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","n":3,"best_of":2}', "best_of"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","logprobs":21}', "logprobs"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","logprobs":true}', "logprobs"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","echo":1}', "echo"),
        (EMBEDDINGS, b'{"model":"m","input":"x","encoding_format":"int8"}', "encoding_format"),
        (EMBEDDINGS, b'{"model":"m","input":"x","dimensions":0}', "dimensions"),
    ]
    return [Hostile(endpoint, body, VALUE, param) for endpoint, body, param in rows]


def _models() -> list[Hostile]:
    """Model names that cannot be one."""
    names = (
        "",
        "a b",
        "m\n",
        "m\u0000",
        "ä",
        "x" * 257,
        "m" * 1_000_000,
        "a\\b",
        "m?x",
        "m#",
        "m%2e",
        "<m>",
        "\u202em",
        'a"b',
    )
    rows = [
        Hostile(CHAT, json.dumps({"model": name, "messages": [{"role": "user"}]}).encode(), MODEL, "model")
        for name in names
    ]
    wrong = [f'{{"model":{text},{MESSAGES}}}'.encode() for text in ("null", "1", "[]", "{}", "true")]
    return [
        *rows,
        *(Hostile(CHAT, body, VALUE, "model") for body in wrong),
        Hostile(CHAT, f"{{{MESSAGES}}}".encode(), VALUE, "model"),
    ]


HOSTILE: tuple[Hostile, ...] = tuple(
    row
    for rows in (
        *(_whole(), _deep_and_many(), _twice(), _limits(), _sampling()),
        *(_unsafe(), _media(), _messages(), _prompts(), _models()),
    )
    for row in rows
)
