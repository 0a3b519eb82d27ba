"""One own and one hosted backend, and requests, as the metrics' tests see them."""

import dataclasses

from estimator.demand import Demand, DemandModel, Shape
from gateway.admission.snapshot import BackendSnapshot, BackendState, QueueSnapshot, Snapshot, Telemetry, TenantSnapshot
from gateway.domain import Ticket
from gateway.reporting.cardinality import Fleet
from gateway.reporting.families import ENDPOINTS, GRPC_CODES
from gateway.reporting.metrics import Metrics
from gateway.reporting.record import RequestRecord
from gateway.reporting.registry import Families

CHAT = "/v1/chat/completions"
OURS = BackendSnapshot(
    name="b",
    state=BackendState.READY,
    telemetry=Telemetry.FRESH,
    hosted=False,
    models=("m",),
    engine_version="0.32",
    capacity_tokens=1000,
    block_tokens=16,
    resident_tokens=100,
    reserved_tokens=300,
    draining_tokens=50,
    foreign_tokens=20,
    held_back_tokens=100,
    headroom_tokens=530,
    observed_tokens=170,
    requests=2,
    running=2,
    waiting=1,
    preemptions=3,
    telemetry_age_s=0.1,
    drain_timeouts=0,
    peak_forecast_30s_tokens=400,
    peak_forecast_300s_tokens=600,
    exhaustion_s=240.0,
    margin_share=0.1,
    kv_token_seconds=50.0,
)
HOSTED = dataclasses.replace(
    OURS,
    name="h",
    hosted=True,
    models=("far",),
    capacity_tokens=0,
    engine_version="",
    observed_tokens=None,
    requests_left_share=0.75,
    tokens_left_share=0.5,
)


def snapshot(
    now: float = 0.0,
    *backends: BackendSnapshot,
    queues: tuple[QueueSnapshot, ...] = (),
    tenants: tuple[TenantSnapshot, ...] = (),
) -> Snapshot:
    return Snapshot(
        now,
        draining=False,
        backends=backends,
        queues=queues,
        queue_requests_max=512,
        double_releases=0,
        tenants=tenants,
    )


def metrics_of_both(*tenants: str) -> Metrics:
    """Metrics that have seen both backends once."""
    made = Metrics(["m"], version="1.2.3", config_sha256="abc", exceed_ratio_target=0.01, tenants=tenants)
    made.refresh(snapshot(0.0, OURS, HOSTED), {"b": "vllm", "h": "openai"})
    return made


def demand() -> Demand:
    return DemandModel().estimate(Shape(text_bytes=0, token_prompts=(100,), max_tokens=10), context_tokens=1000)


def ticket(number: int, model: str = "m", **changes: object) -> Ticket:
    return dataclasses.replace(Ticket(number, model, demand(), deadline=30.0), **changes)  # type: ignore[arg-type]


def record(**changes: object) -> RequestRecord:
    return dataclasses.replace(RequestRecord("r", CHAT, "m", 200, 2.0, backend="b"), **changes)  # type: ignore[arg-type]


def sample(families: Families, name: str, **labels: str) -> float | None:
    """One sample of a registry, or None where there is none; `name` without the prefix."""
    return families.registry.get_sample_value(f"kvgate_{name}", labels)


def used_up(fleet: Fleet) -> Metrics:
    """A gateway of whose labels every value was seen."""
    tenants = [f"t{number}" for number in range(fleet.tenants)]
    metrics = Metrics([], version="1", config_sha256="x", exceed_ratio_target=0.01, tenants=tenants)
    own = [
        dataclasses.replace(
            OURS, name=f"b{at}", models=(f"m{at % fleet.models}",), requests_left_share=1.0, tokens_left_share=1.0
        )
        for at in range(fleet.backends)
    ]
    metrics.refresh(snapshot(0.0, *own), {})
    for backend in own:
        for endpoint in ENDPOINTS:
            for code in (200, 400, 429, 503):
                metrics.on_request(record(model=backend.models[0], backend=backend.name, endpoint=endpoint, code=code))
                metrics.on_request(record(model=backend.models[0], backend="", endpoint=endpoint, code=code))
                metrics.on_request(record(model="junk", backend="", endpoint=endpoint, code=code))
    for gpu in range(fleet.gpus):
        metrics.on_gpu(own[gpu % len(own)].name, gpu, used_bytes=1, total_bytes=2, utilization_ratio=0.5)
    metrics.on_certificate("api", 2e9)
    ledger = metrics.ledger("shared")
    for backend in own:
        ledger.on_expired(backend.name)
    picker = metrics.ext_proc()
    for grpc_code in GRPC_CODES:
        picker.on_stream_ended(grpc_code)
    return metrics
