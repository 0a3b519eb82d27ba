"""Prometheus series made ahead of time and held in plain attributes: what runs per request looks up no labels."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gateway.domain import Priority
from gateway.reporting.families import (
    DECISIONS,
    ENDPOINTS,
    LEVELS,
    NO_BACKEND,
    OUTCOMES,
    PHASES,
    PRIORITIES,
)
from gateway.reporting.record import RequestRecord
from gateway.reporting.registry import Families
from gateway.reporting.tally import Counter, Histogram

CODES = {NO_BACKEND: (400, 429, 503)}
"""Statuses whose series exist from the start: refusals where no backend was reached, successes elsewhere."""
CODES_SERVED = (200,)


class ServedSeries:
    """Requests of one model on one backend, or on none."""

    def __init__(self, families: Families, model: str, backend: str) -> None:
        self._families, self._model, self._backend = families, model, backend
        self.is_served = backend != NO_BACKEND
        """Only then are there series of what a backend makes."""
        self.duration_s: dict[str, Histogram] = {}
        self.answered: dict[tuple[str, int], Counter] = {}
        for endpoint in ENDPOINTS:
            self._duration(endpoint)
            for code in CODES.get(backend, CODES_SERVED):
                self._answered(endpoint, code)
        if not self.is_served:
            return
        pair = (model, backend)
        self.ttft_s = families.histogram("time_to_first_token_seconds", *pair)
        self.tpot_s = families.histogram("time_per_output_token_seconds", *pair)
        self.prompt_tokens = families.counter("prompt_tokens_total", *pair)
        self.cached_prompt_tokens = families.counter("cached_prompt_tokens_total", *pair)
        self.output_tokens = families.counter("generation_tokens_total", *pair)
        self.in_flight = {
            priority: families.gauge("requests_in_flight", *pair, name)
            for priority, name in zip(Priority, PRIORITIES, strict=True)
        }

    def end(self, endpoint: str, record: RequestRecord) -> None:
        """Count one answered request."""
        (self.answered.get((endpoint, record.code)) or self._answered(endpoint, record.code)).inc()
        duration_s = self.duration_s.get(endpoint) or self._duration(endpoint)
        duration_s.observe(record.duration_s, _exemplar(record) if record.trace_id else None)

    def count_tokens(self, record: RequestRecord) -> None:
        """Count what an answer was made of; only where there was a backend."""
        if record.prompt_tokens:
            self.prompt_tokens.inc(record.prompt_tokens)
        if record.cached_prompt_tokens:
            self.cached_prompt_tokens.inc(record.cached_prompt_tokens)
        if record.output_tokens:
            self.output_tokens.inc(record.output_tokens)
        if record.ttft_s is not None:
            exemplar = _exemplar(record)
            self.ttft_s.observe(record.ttft_s, exemplar)
            later = (record.output_tokens or 0) / record.sequences - 1
            if later > 0:
                self.tpot_s.observe(max(0.0, record.duration_s - record.ttft_s) / later, exemplar)

    def _duration(self, endpoint: str) -> Histogram:
        series = self._families.histogram("request_duration_seconds", endpoint, self._model, self._backend)
        return self.duration_s.setdefault(endpoint, series)

    def _answered(self, endpoint: str, code: int) -> Counter:
        series = self._families.counter("requests_total", endpoint, self._model, self._backend, str(code))
        return self.answered.setdefault((endpoint, code), series)


class AskedSeries:
    """Decisions on the requests of one model and class."""

    def __init__(self, families: Families, model: str, priority: str) -> None:
        self._families, self._model, self._priority = families, model, priority
        self.decisions: dict[tuple[str, str], Counter] = {}
        for outcome, reason in DECISIONS:
            self._decision(outcome, reason)
        self.tokens = {o: families.counter("admission_tokens_total", model, priority, o) for o in OUTCOMES}
        self.wait_s = {o: families.histogram("admission_queue_wait_seconds", model, priority, o) for o in OUTCOMES}
        self.queue_depth = families.gauge("admission_queue_depth", model, priority)
        self.queue_tokens = families.gauge("admission_queue_tokens", model, priority)
        self.oldest_wait_s = families.gauge("admission_oldest_wait_seconds", model, priority)

    def decide(self, outcome: str, reason: str, tokens: int, waited_s: float) -> None:
        """Count one decision."""
        (self.decisions.get((outcome, reason)) or self._decision(outcome, reason)).inc()
        self.tokens[outcome].inc(tokens)
        self.wait_s[outcome].observe(waited_s)

    def _decision(self, outcome: str, reason: str) -> Counter:
        series = self._families.counter("admission_decisions_total", self._model, self._priority, outcome, reason)
        return self.decisions.setdefault((outcome, reason), series)


class PredictionSeries:
    """How the prompts of one model, or its outputs, compare to what was predicted."""

    def __init__(self, families: Families, model: str, kind: str) -> None:
        self.ratio = families.histogram("prediction_ratio", model, kind)
        self.covered = families.counter("prediction_outcomes_total", model, kind, "covered")
        self.exceeded = families.counter("prediction_outcomes_total", model, kind, "exceeded")

    def compare(self, actual: float, predicted: float, bound: float) -> None:
        """Count one prediction that came true or did not."""
        if predicted > 0:
            self.ratio.observe(actual / predicted)
        (self.covered if actual <= bound else self.exceeded).inc()


class ModelSeries:
    """What is known of one model as a whole."""

    def __init__(self, families: Families, model: str) -> None:
        self.name = model
        self.served = {NO_BACKEND: ServedSeries(families, model, NO_BACKEND)}
        """By backend."""
        self.asked = {
            priority: AskedSeries(families, model, name) for priority, name in zip(Priority, PRIORITIES, strict=True)
        }
        self.disconnects = {phase: families.counter("client_disconnects_total", model, phase) for phase in PHASES}
        self.retry_after_s = families.histogram("retry_after_seconds", model)
        self.queue_limit = families.gauge("admission_queue_limit", model)
        self.exceed_target = families.gauge("prediction_target_exceed_ratio", model)
        self.prompt = PredictionSeries(families, model, "prompt")
        self.output = PredictionSeries(families, model, "output")
        self.coverage = {level: families.gauge("prediction_coverage_ratio", model, f"{level:g}") for level in LEVELS}
        for gauge in self.coverage.values():
            gauge.set(math.nan)
        self.fitted_at = families.gauge("estimator_last_fit_timestamp_seconds", model)

    def compare(self, record: RequestRecord) -> None:
        """Hold what was predicted of a request that its backend finished against what came."""
        if record.prompt_tokens is not None and record.predicted_prompt_tokens is not None:
            bound = record.predicted_prompt_bound or record.predicted_prompt_tokens
            self.prompt.compare(record.prompt_tokens, record.predicted_prompt_tokens, bound)
        if record.output_tokens is not None and record.predicted_output_bound is not None:
            each = record.output_tokens / record.sequences
            self.output.compare(each, record.predicted_output_p50 or 0, record.predicted_output_bound)

    def predict(self, coverage: Mapping[float, float | None], fitted_unix_s: float | None) -> None:
        """How well the model's forecast has covered, by level, and when it was made."""
        for level, share in coverage.items():
            self.coverage[level].set(math.nan if share is None else share)
        self.fitted_at.set(fitted_unix_s or 0)


def _exemplar(record: RequestRecord) -> dict[str, str] | None:
    """What leads from a bucket to the trace of a request in it."""
    return {"trace_id": record.trace_id} if record.trace_id and record.is_sampled else None
