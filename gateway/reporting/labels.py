"""The labels whose values are known ahead of time, and those values."""

from __future__ import annotations

from gateway.reporting import families as f

_EVERYWHERE = {
    "horizon": f.HORIZONS,
    "label": ("model_name", "tenant"),
    "level": tuple(f"{level:g}" for level in f.LEVELS),
    "mode": f.LEDGER_MODES,
    "op": f.LEDGER_OPS,
    "outcome": f.OUTCOMES,
    "phase": f.PHASES,
    "priority": f.PRIORITIES,
    "result": f.PREDICTION_RESULTS,
    "source": f.SOURCES,
    "state": f.STATES,
    "unit": f.QUOTA_UNITS,
}
_IN_FAMILY = {
    ("admission_decisions_total", "reason"): tuple(dict.fromkeys(reason for _, reason in f.DECISIONS)),
    ("backend_kv_reserved_tokens", "kind"): f.KV_KINDS,
    ("ext_proc_streams_total", "code"): f.GRPC_CODES,
    ("prediction_outcomes_total", "kind"): f.PREDICTION_KINDS,
    ("prediction_ratio", "kind"): f.PREDICTION_KINDS,
    ("telemetry_errors_total", "reason"): f.TELEMETRY_REASONS,
    ("upstream_errors_total", "reason"): f.UPSTREAM_REASONS,
    ("upstream_retries_total", "reason"): f.UPSTREAM_REASONS,
}


def closed_values(family: str, label: str) -> tuple[str, ...]:
    """All values that a label of a family may have; empty where the configuration or an engine names them."""
    return _IN_FAMILY.get((family, label)) or _EVERYWHERE.get(label, ())
