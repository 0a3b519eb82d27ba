"""Where fuzzing begins: a few good and bad examples of each kind of bytes."""

from __future__ import annotations

BODIES = (
    b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":5,"n":2}',
    b'{"model": "m", "prompt": [1, 2, 3], "best_of": 2, "stream": true, "stream_options": {"include_usage": true}}',
    b'{"model":"m","input":["a","b"],"encoding_format":"base64","dimensions":8}',
    b'{"endpoint":"/v1/completions","body":{"model":"m","prompt":[[1],[2,3]],"logprobs":1}}',
    b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/y"}}]}]}',
    b'{"model":"m","messages":[{"role":"system"}],"tools":[{"type":"function","function":{"name":"f"}}]}',
    b'{"mod\\u0065l" : "m",\n\t"messages":[{"role":"assistant","tool_calls":[{"id":"c","function":{"a":1.5e3}}]}]}',
    b'{"model":"m","messages":[{"role":"user","content":"\\ud83d\\ude00"}],"logit_bias":{"1":-100},"a":[[[{}]]]}',
    b'{"model":"m","prompt":"p","stop":["x"],"metadata":{"a":{"b":9007199254740993}},"temperature":0.1,"regex":"x"}',
)
"""Bodies of requests."""

STREAMS = (
    b'data: {"choices":[{"text":"a"}]}\n\ndata: {"choices":[{"finish_reason":"length"}]}\n\ndata: [DONE]\n\n',
    b': ping\r\n\r\ndata: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\r\n\r\ndata:[DONE]\r\r',
    b'data: {"error":{"message":"x"}}\r\rdata\ndata: b\n\n\n\n',
    b'\n\ndata: {"choices":[],"usage":{"prompt_tokens":1}}\n\n\n\ndata: x',
)
"""Streams of events."""

RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nKeep-Alive: timeout=5\r\n\r\n",
    b"HTTP/1.0 503 Busy\r\nRetry-After: 7\r\nX-Y:\t z \r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
)
"""Responses of engines."""

PAGES = (
    b'# TYPE a gauge\na{b="c",d="e\\"\\n"} 1.5e3 1395066363000\na_b 2\nvllm:kv_cache_usage_perc{} +Inf\n',
    b"a 1\na 2\nab 3\na{ 4\n",
    b'a\t{ x = "1" , } NaN\r\n',
)
"""Pages of metrics."""
