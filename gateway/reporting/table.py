"""The metrics contract as a page for people: `python -m gateway.reporting.table > deploy/METRICS.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from gateway.reporting import families as f
from gateway.reporting.cardinality import Fleet, series_max
from gateway.reporting.labels import closed_values

FLEETS = (
    Fleet(backends=1, models=1),
    Fleet(backends=3, models=2),
    Fleet(backends=16, models=4, gpus=8),
    Fleet(backends=64, models=16, gpus=8),
    Fleet(backends=64, models=16, gpus=8, tenants=100),
)
SUBJECTS = (
    ("Requests", f.REQUEST),
    ("Admission", f.ADMISSION),
    ("Backends and their KV cache", f.BACKEND),
    ("Telemetry", f.TELEMETRY),
    ("Predictions", f.PREDICTION),
    ("GPUs", f.GPU),
    ("Tenants, where `metrics.tenants` is on", f.TENANT),
    ("The process", f.PROCESS),
    ("A ledger shared by replicas, where there is one", f.LEDGER),
    ("The endpoint picker, in that process", f.EXT_PROC),
)
OPEN = (
    ("backend", "names of the configuration; `none` where a request reached no backend"),
    ("model_name", "models that are configured or that a backend lists, up to 200; `other`"),
    ("endpoint", "the route, `/v1/chat/completions`; at most 16, then `other`"),
    ("code", "HTTP status, 499 where the client left first; the code's name for gRPC"),
    ("tenant", "names of the configuration, the first 100; `other`"),
)
INTRO = """\
# Metrics

<!-- Made by `python -m gateway.reporting.table > deploy/METRICS.md`: do not edit. -->

Everything that `GET /metrics` on the admin port shows. A name, type, label or unit changes only with an entry in the
changelog. Times are seconds, sizes bytes, ratios 1 for all; a counter ends in `_total`, a point in time in
`_timestamp_seconds`. `NaN` means that an engine does not say. No label holds a user, key, session, path or URL.

Scrapers that accept OpenMetrics, as Prometheus does by itself, get exemplars on the latency histograms: the
`trace_id` of requests that came with a `traceparent` or were traced here.
"""


def table() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield INTRO
    for title, families in SUBJECTS:
        yield f"## {title}\n"
        yield "| metric | type | unit | labels | meaning |"
        yield "| --- | --- | --- | --- | --- |"
        for family in families:
            labels = ", ".join(family.labels) or "–"
            yield f"| `{f.PREFIX}{family.name}` | {family.type} | {family.unit or '–'} | {labels} | {family.help} |"
        yield ""
    yield from _values()
    yield from _sizes()


def _values() -> Iterator[str]:
    yield "## Values of labels\n"
    yield "| label | values |"
    yield "| --- | --- |"
    for label, meaning in OPEN:
        yield f"| {label} | {meaning} |"
    closed: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for family in f.FAMILIES:
        for label in family.labels:
            if values := closed_values(family.name, label):
                closed.setdefault((label, values), []).append(family.name)
    for (label, values), names in sorted(closed.items()):
        alone = sum(found == label for found, _ in closed) == 1
        where = "" if alone else f" of {', '.join(f'`{name}`' for name in names)}"
        if label != "code":
            yield f"| {label}{where} | {', '.join(values)} |"
    yield "\nOutcome and reason of `admission_decisions_total` as they occur together:\n"
    for outcome in f.OUTCOMES:
        yield f"- {outcome}: {', '.join(reason for found, reason in f.DECISIONS if found == outcome)}"
    yield "\nIn observe mode, `admitted` also has the reason for which a request would have been refused.\n"


def _sizes() -> Iterator[str]:
    yield "## How many series\n"
    yield "An upper bound, computed from the contract; each backend serves one model and answers with four statuses.\n"
    yield "| backends | models | GPUs here | tenants | series |"
    yield "| ---: | ---: | ---: | ---: | ---: |"
    for fleet in FLEETS:
        numbers = (fleet.backends, fleet.models, fleet.gpus, fleet.tenants, series_max(fleet))
        yield f"| {' | '.join(f'{number:,}' for number in numbers)} |"


if __name__ == "__main__":
    sys.stdout.write(table())
