"""The simulated engine's answers as JSON: whole bodies and stream chunks, with the fields that vLLM gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from gateway.simulation.answers import Choice
from gateway.simulation.requests import Endpoint, Job

DONE = b"data: [DONE]\n\n"

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Reply:
    """What all bodies of one answer have in common."""

    id: str
    created: int
    model: str
    job: Job
    choices: Sequence[Choice]

    def whole(self) -> bytes:
        """The answer to a request without `stream`."""
        render = self._chat_choice if self.job.endpoint is Endpoint.CHAT else self._text_choice
        body = self._head(streamed=False) | {
            "choices": [render(index, choice) for index, choice in enumerate(self.choices)],
            "usage": self._usage([choice.output_tokens for choice in self.choices]),
        }
        return msgspec.json.encode(body)

    def stream_start(self) -> bytes:
        """What a stream says before the first token: in chat each choice names its role."""
        if self.job.endpoint is Endpoint.COMPLETIONS:
            return b""
        chunks = (
            self._chunk({"index": index, "delta": {"role": "assistant", "content": ""}}, None, [0] * len(self.choices))
            for index in range(len(self.choices))
        )
        return b"".join(chunks)

    def stream_more(self, sent: Sequence[int], generated: Sequence[int]) -> bytes:
        """One chunk for each choice that has more tokens than were `sent`."""
        return b"".join(self._more(sent, generated))

    def stream_end(self) -> bytes:
        """Usage, if it was asked for, and the end mark."""
        if not self.job.include_usage:
            return DONE
        usage = self._usage([choice.output_tokens for choice in self.choices])
        return event(self._head(streamed=True) | {"choices": [], "usage": usage}) + DONE

    def _more(self, sent: Sequence[int], generated: Sequence[int]) -> Iterator[bytes]:
        for index, choice in enumerate(self.choices):
            if sent[index] == generated[index]:
                continue
            text = choice.text(sent[index], generated[index])
            finish = self._finish_reason(choice) if generated[index] == choice.output_tokens else None
            if self.job.endpoint is Endpoint.CHAT:
                delta: Json = {"content": text}
                if finish == "tool_calls":
                    delta["tool_calls"] = [{"index": 0} | self._tool_call(index)]
                yield self._chunk({"index": index, "delta": delta}, finish, generated)
            else:
                yield self._chunk({"index": index, "text": text}, finish, generated)

    def _chunk(self, choice: Json, finish: str | None, generated: Sequence[int]) -> bytes:
        choice |= {"logprobs": None, "finish_reason": finish}
        if self.job.endpoint is Endpoint.COMPLETIONS or finish is not None:
            choice["stop_reason"] = None
        body = self._head(streamed=True) | {"choices": [choice]}
        if self.job.continuous_usage:
            body["usage"] = self._usage(generated)
        return event(body)

    def _head(self, *, streamed: bool) -> Json:
        if self.job.endpoint is Endpoint.COMPLETIONS:
            kind = "text_completion"
        else:
            kind = "chat.completion.chunk" if streamed else "chat.completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _usage(self, generated: Sequence[int]) -> Json:
        """Each prompt counts once, however many choices it has; each choice's tokens count."""
        prompt_tokens, output_tokens = sum(self.job.prompt_tokens), sum(generated)
        return {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + output_tokens,
            "completion_tokens": output_tokens,
            "prompt_tokens_details": None,
        }

    def _chat_choice(self, index: int, choice: Choice) -> Json:
        finish = self._finish_reason(choice)
        calls = [self._tool_call(index)] if finish == "tool_calls" else []
        message = {"role": "assistant", "content": choice.text(0, choice.output_tokens), "tool_calls": calls}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish, "stop_reason": None}

    def _text_choice(self, index: int, choice: Choice) -> Json:
        return {
            "index": index,
            "text": choice.text(0, choice.output_tokens),
            "logprobs": None,
            "finish_reason": self._finish_reason(choice),
            "stop_reason": None,
            "prompt_logprobs": None,
        }

    def _finish_reason(self, choice: Choice) -> str:
        return "tool_calls" if self.job.tool and choice.finish_reason == "stop" else choice.finish_reason

    def _tool_call(self, index: int) -> Json:
        return {
            "id": f"call-{self.id}-{index}",
            "type": "function",
            "function": {"name": self.job.tool, "arguments": "{}"},
        }


def event(body: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def error_body(status: int, type_: str, message: str, param: str | None = None) -> Json:
    """vLLM's error object; `code` repeats the status."""
    return {"error": {"message": message, "type": type_, "param": param, "code": status}}
