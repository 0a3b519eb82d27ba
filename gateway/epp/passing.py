"""The passage of an answer from Envoy through the picker and back to Envoy."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from gateway.epp.answers import BrokenAnswerError, Deal, Watcher, watcher
from gateway.epp.messages import (
    Body,
    Head,
    ProtocolError,
    Side,
    Trailers,
    bodies,
    response_headers,
    trailers,
)
from gateway.epp.stream import GoneError, Stream


async def watch_answer(stream: Stream, deal: Deal, endpoint: str, told: Mapping[str, str]) -> None:
    """Take the answer as it passes, to its end.

    Args:
        stream: where it passes.
        deal: the request.
        endpoint: where Envoy was told to send it.
        told: headers that the client is given beside the engine's.

    Raises:
        BrokenAnswerError: it cannot be what it claims.
        GoneError: its client left.
        ProtocolError: Envoy sent what it must not send.
    """
    head = await stream.next()
    if not isinstance(head, Head) or head.side is not Side.RESPONSE:
        raise ProtocolError("an answer begins with its headers")
    watch = watcher(deal, head, endpoint)
    await stream.send(response_headers(told))
    if head.last:
        watch.end()
        return
    while True:
        message = await stream.next()
        if isinstance(message, Head) or message.side is not Side.RESPONSE:
            raise ProtocolError("headers within a body, or a request after its end")
        if isinstance(message, Trailers):
            watch.end()
            await stream.send(trailers(Side.RESPONSE))
            return
        data = watch.take(message.data)
        if message.last:
            await _last(stream, watch, data)
            return
        if data:
            await _send(stream, data)


async def pass_on(stream: Stream) -> None:
    """Envoy gave an answer of its own while the request waited, or gives none: it passes as it is."""
    with suppress(GoneError):
        while True:
            message = await stream.next()
            if message.side is Side.REQUEST:
                continue
            if isinstance(message, Head):
                await stream.send(response_headers({}))
            elif isinstance(message, Body):
                await _send(stream, message.data, last=message.last)
            else:
                await stream.send(trailers(Side.RESPONSE))
            if isinstance(message, Trailers) or message.last:
                return


async def _last(stream: Stream, watch: Watcher, data: bytes) -> None:
    try:
        watch.end()
    except BrokenAnswerError:
        await _send(stream, data)
        raise
    await _send(stream, data, last=True)


async def _send(stream: Stream, data: bytes, *, last: bool = False) -> None:
    for reply in bodies(Side.RESPONSE, data, last=last):
        await stream.send(reply)
