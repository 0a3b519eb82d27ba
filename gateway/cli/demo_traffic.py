"""The traffic of the demo: a real OpenAI client, calm at first, then with more requests than the engines can hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.cli.demo_story import Phase, Refused, Sent

CALM_REQUESTS = 4
BURST_REQUESTS = 90
BURST_S = 2.0
RETRY_FROM, RETRY_EVERY = 60, 3
"""From this request of the burst on, when the queue is full, so manieth comes from a client that retries by itself."""
OUTPUT_TOKENS_MAX = 160
ANSWER_MAX_S = 25.0
TEXT = """\
A language model writes one token after the other, and looks back at all earlier ones each time. So that it need not
compute them again, an engine keeps two vectors per layer for each of them: keys and values. This cache grows with every
token of every request that runs, and a request that ends gives all of its part back at once. How long an answer will
be is known only when it ends; how much memory it will need can only be predicted."""


class Traffic:
    """Sends requests and keeps what became of each in `sent`."""

    def __init__(self, model: str, once: openai.AsyncOpenAI, patient: openai.AsyncOpenAI) -> None:
        self.sent: list[Sent] = []
        self._model = model
        self._once = once
        self._patient = patient

    async def calm(self) -> None:
        """A few requests, one after the other in two lines: one streamed, one not."""

        async def line(streamed: bool) -> None:
            for number in range(CALM_REQUESTS // 2):
                await self._send(self._once, Phase.CALM, 2 * number + streamed, streamed=streamed)

        await asyncio.gather(line(streamed=True), line(streamed=False))

    async def burst(self) -> None:
        """Many requests in a short time, every fourth not streamed."""
        await asyncio.gather(*(self._later(number) for number in range(BURST_REQUESTS)))

    async def _later(self, number: int) -> None:
        await asyncio.sleep(number * BURST_S / BURST_REQUESTS)
        if number >= RETRY_FROM and number % RETRY_EVERY == 0:
            await self._send(self._patient, Phase.RETRY, number, streamed=True)
        else:
            await self._send(self._once, Phase.BURST, number, streamed=number % 4 != 3)

    async def _send(self, client: openai.AsyncOpenAI, phase: Phase, number: int, *, streamed: bool) -> None:
        request = Sent(phase, streamed)
        self.sent.append(request)
        clock = asyncio.get_running_loop().time
        started = clock()
        # Whatever goes wrong is this request's fate, not the demo's end.
        [outcome] = await asyncio.gather(self._chat(client, request, number), return_exceptions=True)
        request.took_s = clock() - started
        if isinstance(outcome, openai.RateLimitError):
            request.refused = _refusal(outcome)
        elif outcome is not None:
            request.fault = f"{type(outcome).__name__}: {outcome}"
        elif not request.complete:
            request.fault = "the answer has no end"

    async def _chat(self, client: openai.AsyncOpenAI, request: Sent, number: int) -> None:
        raw = await client.chat.completions.with_raw_response.create(
            model=self._model,
            messages=[{"role": "user", "content": f"{number}. In other words, please: {TEXT}"}],
            max_tokens=OUTPUT_TOKENS_MAX,
            stream=request.streamed,
        )
        request.decision = raw.headers.get("x-kvgate-decision", "admitted")
        request.queued_s = float(raw.headers.get("x-kvgate-queue-ms", "0")) / 1000
        request.retries = int(raw.http_request.headers.get("x-stainless-retry-count", "0"))
        answer = raw.parse()
        if isinstance(answer, ChatCompletion):
            _take_whole(request, answer)
            return
        async for chunk in answer:
            _take_chunk(request, chunk)


def _take_whole(request: Sent, answer: ChatCompletion) -> None:
    request.text = answer.choices[0].message.content or ""
    request.pieces = 1
    request.complete = bool(answer.choices[0].finish_reason)


def _take_chunk(request: Sent, chunk: ChatCompletionChunk) -> None:
    for choice in chunk.choices:
        if choice.delta.content:
            request.text += choice.delta.content
            request.pieces += 1
        # The client ends quietly when a stream is cut: only this tells a whole answer from half of one.
        request.complete = request.complete or bool(choice.finish_reason)


def _refusal(error: openai.RateLimitError) -> Refused:
    message = error.body.get("message") if isinstance(error.body, dict) else None
    retry_after = error.response.headers.get("retry-after", "")
    return Refused(error.status_code, error.code or "", retry_after, str(message or error))


@asynccontextmanager
async def traffic(api_url: str, model: str) -> AsyncIterator[Traffic]:
    """Traffic towards a gateway; its connections are closed at the end."""
    base_url = f"{api_url}/v1"
    # In a thread, because it reads certificates. Without the environment, which may name a proxy: it would be asked for
    # an address of this machine.
    http = await asyncio.to_thread(openai.DefaultAsyncHttpxClient, trust_env=False, timeout=ANSWER_MAX_S)
    async with (
        openai.AsyncOpenAI(base_url=base_url, api_key="none", http_client=http, max_retries=0) as once,
        openai.AsyncOpenAI(base_url=base_url, api_key="none", http_client=http) as patient,
    ):
        yield Traffic(model, once, patient)
