"""From a request to its ticket, and from a verdict to the answer of `/v1/estimate`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.admission.admission import Admission
from gateway.admission.consider import KvNeed, Verdict
from gateway.admission.limits import AdmissionLimits
from gateway.admission.slo import Slo
from gateway.api.parse import parse_inference
from gateway.domain import Priority, Reason
from gateway.errors import ApiError
from gateway.estimation import Estimation, plain, prefix_of
from gateway.gate import Gate
from gateway.pricing import Pricing
from gateway.request import CHAT, EMBEDDINGS, InferenceRequest, Tenant
from gateway.routing.prefix import CHUNK_BYTES
from gateway.tokens import TokenCounters
from tests.relaying import request
from tests.shell import add_backend, ticket

KEYS = {
    *("decision", "reason", "backend", "prompt_tokens", "output_tokens", "kv_tokens", "kv_bytes", "headroom_tokens"),
    *("wait_s", "retry_after_s", "largest_max_tokens"),
}
"""The contract's."""


@asynccontextmanager
async def estimating(*slos: Slo) -> AsyncIterator[tuple[Estimation, Gate]]:
    """In front of one engine with 64 blocks of 16 tokens."""
    gate = Gate(Admission(AdmissionLimits()), asyncio.get_running_loop())
    add_backend(gate, "a")
    tokens = TokenCounters({})
    try:
        yield Estimation(gate, Pricing(gate.learned), tokens, 30.0, slos), gate
    finally:
        tokens.close()


async def test_a_ticket_has_what_the_request_and_its_key_say() -> None:
    """A client's own timeout bounds its patience, less the time an answer takes."""
    async with estimating() as (estimation, _):
        asked = request(stream=True, ignore_eos=True)
        asked.tenant, asked.priority = Tenant("t", Priority.STANDARD, 0.5), Priority.BATCH
        patient = await estimation.ticket(asked, 100.0)
        asked.deadline_s = 10.0
        hasty = await estimation.ticket(asked, 100.0)
        assert (patient.deadline, hasty.deadline) == (130.0, 109.5)
        assert patient.id != hasty.id
        assert (patient.model, patient.max_tokens, patient.streamed, patient.runs_to_max) == ("m", 16, True, True)
        assert (patient.tenant, patient.priority, patient.kv_share) == ("t", Priority.BATCH, 0.5)


async def test_a_ticket_is_there_at_once() -> None:
    """Where nothing has to be counted and the model is known, the event loop is not waited for."""
    async with estimating() as (estimation, _):
        making = estimation.ticket(request(), 100.0)
        with pytest.raises(StopIteration) as made:
            making.send(None)
        assert made.value.value.model == "m"


async def test_what_is_promised_bounds_the_wait() -> None:
    """Longer prompts are granted more time; nobody waits beyond the promise."""
    async with estimating(Slo(ttft_s=2.0, ttft_per_1k_prompt_tokens_s=1.0, time_per_output_token_s=0.1)) as (told, _):
        asked = await told.ticket(request(prompt=[1] * 500), 100.0)
        assert (asked.first_token_by, asked.deadline, asked.token_interval_max_s) == (102.5, 102.5, 0.1)


def long_chat(more: str = "", **fields: object) -> InferenceRequest:
    """One of 3 KiB and what follows."""
    messages = [{"role": "user", "content": "x" * 3 * CHUNK_BYTES + more}]
    return parse_inference(CHAT, json.dumps({"model": "m", "messages": messages, "max_tokens": 16, **fields}).encode())


async def test_beginnings_are_named_only_where_there_is_a_choice() -> None:
    """Of engines of our own. They stand for their part of the prompt's tokens."""
    async with estimating() as (estimation, gate):
        asked = long_chat("y" * 500)
        assert (await estimation.ticket(asked, 0.0)).prefix == ()
        add_backend(gate, "b", blocks=64)
        named = await estimation.ticket(asked, 0.0)
        assert named.prefix == prefix_of(asked)
        assert len(named.prefix) == 3
        assert 0.8 * named.demand.prompt_tokens < named.prefix_tokens < 0.9 * named.demand.prompt_tokens
        short = await estimation.ticket(request(), 0.0)
        assert (short.prefix, short.prefix_tokens) == ((), 0)


def test_what_engines_put_before_the_prompt_belongs_to_its_beginning() -> None:
    """And so do the model and the tenant: nobody finds out here what another has sent."""
    plain_one = long_chat()
    others = [long_chat(model="n"), long_chat(chat_template_kwargs={"a": 1}), long_chat()]
    others[2].tenant = Tenant("other")
    assert prefix_of(long_chat("more", temperature=0.5)) == prefix_of(plain_one) != ()
    names = [set(prefix_of(each)) for each in (plain_one, *others)]
    assert len(set.union(*names)) == sum(map(len, names)) == 4 * len(names[0])


def test_prompts_of_completions_and_of_embeddings() -> None:
    """Token ids begin alike too; embeddings are not worth going back for."""
    ids = list(range(1000, 1500))
    assert prefix_of(request(prompt=ids)) == prefix_of(request(prompt=[*ids, 7]))[:2] != ()
    body = json.dumps({"model": "m", "input": "x" * 5000}).encode()
    assert prefix_of(parse_inference(EMBEDDINGS, body)) == ()


async def test_an_unknown_model_has_no_price() -> None:
    async with estimating() as (estimation, _):
        asked = request()
        asked.model = "other"
        with pytest.raises(ApiError) as caught:
            await estimation.estimate(asked)
        assert (caught.value.status, caught.value.code) == (404, "model_not_found")


async def test_asking_leaves_nothing_behind() -> None:
    """The answer has the contract's keys, and the books are as before."""
    async with estimating() as (estimation, gate):
        before = gate.snapshot().backends
        answer = await estimation.estimate(request(ignore_eos=True))
        assert set(answer) == KEYS
        assert (answer["decision"], answer["reason"], answer["backend"], answer["wait_s"]) == ("admit", "ok", "a", 0.0)
        assert answer["output_tokens"] == {"p50": 16, "p90": 16, "max": 16}
        (after,) = gate.snapshot().backends
        assert (after.reserved_tokens, after.headroom_tokens) == (0, before[0].headroom_tokens)


async def test_without_room_it_would_wait() -> None:
    """There is a prediction, and nothing to come back for."""
    async with estimating() as (estimation, gate), gate.enter(ticket(gate, blocks=60)):
        answer = await estimation.estimate(request(prompt=[1] * 1000, max_tokens=8))
        assert (answer["decision"], answer["reason"]) == ("queue", "headroom")
        assert answer["headroom_tokens"] == 64
        assert answer["retry_after_s"] is None
        assert isinstance(answer["wait_s"], float)
        assert gate.snapshot().queues == ()


async def test_what_is_not_known_is_null() -> None:
    """Providers have no KV cache to tell of; seconds are rounded."""
    async with estimating() as (_, gate):
        asked = ticket(gate)
        hosted = plain(Verdict("queue", Reason.HEADROOM, wait_s=1.23456), asked)
        assert set(hosted) == KEYS
        assert hosted["kv_tokens"] == {"now": 0, "expected": 0, "max": 0}
        assert [hosted[key] for key in ("backend", "kv_bytes", "headroom_tokens", "largest_max_tokens")] == [None] * 4
        assert (hosted["wait_s"], hosted["retry_after_s"]) == (1.235, None)
        refused = plain(Verdict("refuse", Reason.HEADROOM, "", KvNeed(1, 2, 3, 4), 5, None, 6.00049, 7), asked)
        assert (refused["wait_s"], refused["retry_after_s"], refused["kv_bytes"]) == (None, 6.0, 4)
