"""What a request will need, for those that are sent on and for those that only ask what would become of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.admission.consider import KvNeed, Verdict
from gateway.admission.refusals import RETRY_UNKNOWN_S
from gateway.admission.slo import Slo, slo_for
from gateway.domain import Reason, Refusal, ServedModel, Ticket
from gateway.errors import model_not_found, refused
from gateway.gate import Gate
from gateway.pricing import Pricing
from gateway.request import CHAT, COMPLETIONS, InferenceRequest
from gateway.routing.prefix import CHUNK_BYTES, chain
from gateway.tokens import TokenCounters

PATIENCE_SHARE = 0.95
"""Part of the client's own timeout that a request may wait: our answer must arrive before the client gives up."""
PROMPTS = {CHAT: "messages", COMPLETIONS: "prompt"}
"""Where the prompt is. Embeddings leave nothing behind that is worth going back for."""
BEFORE_PROMPT = ("tools", "functions", "chat_template_kwargs")
"""Engines put these before the messages: where they differ, nothing is shared."""
NO_NEED = KvNeed(0, 0, 0, None)
_NOT_YET = Refusal(Reason.NO_BACKEND, retry_after_s=RETRY_UNKNOWN_S)


class Estimation:
    """Turns requests into tickets, and tickets into answers of `/v1/estimate`.

    Args:
        gate: knows the models and decides.
        pricing: what was learned about each.
        tokens: counts prompts where a tokenizer is configured.
        queue_wait_max_s: how long a request may wait if its client does not say.
        slos: what requests are promised.
    """

    def __init__(
        self, gate: Gate, pricing: Pricing, tokens: TokenCounters, queue_wait_max_s: float, slos: Sequence[Slo]
    ) -> None:
        self._gate = gate
        self._pricing = pricing
        self._tokens = tokens
        self._queue_wait_max_s = queue_wait_max_s
        self._slos = slos

    async def ticket(self, request: InferenceRequest, arrived_at: float) -> Ticket:
        """The request as admission sees it; what was counted of it is added to its shape.

        Raises:
            ApiError: 404, nobody serves its model; 503, nobody is known who does, as a backend has never answered.
        """
        model, gate = request.model, self._gate
        if self._tokens.counts(model) and (tokens := await self._tokens.count(request)) is not None:
            request.shape = replace(request.shape, counted_tokens=tokens)
        served = gate.served(model) or await self._survey(model)
        patience_s = self._queue_wait_max_s
        if request.deadline_s is not None:
            patience_s = min(patience_s, request.deadline_s * PATIENCE_SHARE)
        shape, runs_to_max, tenant = request.shape, request.runs_to_max, request.tenant
        demand = self._pricing.demand(model, shape, context_tokens=served.context_tokens, runs_to_max=runs_to_max)
        prefix = prefix_of(request) if served.engines > 1 else ()
        slo = slo_for(self._slos, model, request.priority)
        first_token_s = slo.first_token_within_s(demand.prompt_tokens)
        return Ticket(
            id=gate.next_ticket_id(),
            model=model,
            demand=demand,
            deadline=arrived_at + min(patience_s, first_token_s),
            first_token_by=arrived_at + first_token_s,
            token_interval_max_s=slo.time_per_output_token_s,
            max_tokens=shape.max_tokens,
            runs_to_max=runs_to_max,
            streamed=request.stream,
            priority=request.priority,
            tenant=tenant.name,
            kv_share=tenant.kv_share,
            tenant_limits=tenant.limits,
            prefix=prefix,
            prefix_tokens=_tokens_in(prefix, request, demand.prompt_tokens) if prefix else 0,
        )

    async def _survey(self, model: str) -> ServedModel:
        """What is known of a model once every backend was looked at.

        Raises:
            ApiError: as `ticket`.
        """
        is_known = await self._gate.surveyed()
        if (served := self._gate.served(model)) is None:
            # A backend that never answered may serve it: then nobody can say that it does not exist.
            raise model_not_found(model) if is_known else refused(_NOT_YET, model)
        return served

    async def estimate(self, request: InferenceRequest) -> dict[str, object]:
        """What would become of the request now, ready for JSON. Nothing is sent or reserved.

        Raises:
            ApiError: 404, nobody serves its model.
        """
        ticket = await self.ticket(request, self._gate.now())
        return plain(await self._gate.consider(ticket), ticket)


def prefix_of(request: InferenceRequest) -> tuple[int, ...]:
    """Names of the beginnings of its prompt; none where it is short.

    A tenant's are its own. Engines share their caches among tenants, but who asks whether another has sent the same
    must not find it in our answers: a dry run names the backend, and would tell for every guess.
    """
    prompt = request.fields.get(PROMPTS.get(request.endpoint, ""))
    if prompt is None or len(prompt) < CHUNK_BYTES:
        return ()
    before = tuple(bytes(request.fields.get(name, b"")) for name in BEFORE_PROMPT)
    return chain((request.tenant.name, request.model, before), memoryview(prompt))


def _tokens_in(prefix: tuple[int, ...], request: InferenceRequest, prompt_tokens: int) -> int:
    """Tokens that the chunks stand for, if all bytes of a prompt are alike."""
    return prompt_tokens * len(prefix) * CHUNK_BYTES // len(request.fields[PROMPTS[request.endpoint]])


def plain(verdict: Verdict, ticket: Ticket) -> dict[str, object]:
    """The answer of `/v1/estimate`: times in seconds, prompts together, output per sequence, bytes on one GPU."""
    demand, need = ticket.demand, verdict.need or NO_NEED
    return {
        "decision": verdict.decision,
        "reason": verdict.reason.value,
        "backend": verdict.backend or None,
        "prompt_tokens": demand.prompt_tokens,
        "output_tokens": {
            "p50": demand.output_bound(0.5),
            "p90": demand.output_bound(0.1),
            "max": demand.output_tokens_max,
        },
        "kv_tokens": {"now": need.now, "expected": need.expected, "max": need.max},
        "kv_bytes": need.expected_bytes,
        "headroom_tokens": verdict.headroom_tokens,
        "wait_s": 0.0 if verdict.decision == "admit" else _rounded(verdict.wait_s),
        "retry_after_s": _rounded(verdict.retry_after_s),
        "largest_max_tokens": verdict.largest_max_tokens,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
