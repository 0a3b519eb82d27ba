"""What is told of looks at engines and GPUs: how long they took, when one last succeeded, what went wrong."""

from __future__ import annotations

from gateway.reporting.families import TELEMETRY_REASONS
from gateway.reporting.registry import Families
from gateway.reporting.tally import Counter, Gauge, Histogram


class LookMetrics:
    """Looks, by backend and by `families.SOURCES`."""

    def __init__(self, families: Families) -> None:
        self._families = families
        self._durations: dict[str, Histogram] = {}
        self._succeeded_at: dict[tuple[str, str], Gauge] = {}
        self._errors: dict[tuple[str, str, str], Counter] = {}

    def watch(self, backend: str, source: str) -> None:
        """From now on there are series for it, as of something that was not read yet."""
        if (backend, source) in self._succeeded_at:
            return
        self._durations.setdefault(source, self._families.histogram("telemetry_scrape_duration_seconds", source))
        self._succeeded_at[backend, source] = self._families.gauge(
            "telemetry_last_success_timestamp_seconds", backend, source
        )
        for reason in TELEMETRY_REASONS:
            self._errors[backend, source, reason] = self._families.counter(
                "telemetry_errors_total", backend, source, reason
            )

    def succeeded(self, backend: str, source: str, duration_s: float | None) -> None:
        """A look brought numbers."""
        self.watch(backend, source)
        if duration_s is not None:
            self._durations[source].observe(duration_s)
        self._succeeded_at[backend, source].set_to_current_time()

    def failed(self, backend: str, source: str, reason: str) -> None:
        """A look brought nothing usable; `reason` is one of `families.TELEMETRY_REASONS`."""
        self.watch(backend, source)
        self._errors[backend, source, reason].inc()

    def forget(self, backend: str) -> None:
        """It was taken out of the configuration."""
        self._succeeded_at = {key: gauge for key, gauge in self._succeeded_at.items() if key[0] != backend}
        self._errors = {key: counter for key, counter in self._errors.items() if key[0] != backend}
