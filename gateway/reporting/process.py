"""What is told of the process itself: its build, its configuration, its certificates, its event loop."""

from __future__ import annotations

import platform

from gateway.reporting.registry import Families


class ProcessMetrics:
    """One process; it starts with a configuration that was loaded."""

    def __init__(self, families: Families, *, version: str, revision: str, config_sha256: str) -> None:
        self._families = families
        self._config_sha256 = config_sha256
        self._successful = families.gauge("config_last_reload_successful")
        self._succeeded_at = families.gauge("config_last_reload_success_timestamp_seconds")
        self._loop_lag_s = families.histogram("event_loop_lag_seconds")
        families.gauge("build_info", version, revision, platform.python_version()).set(1)
        self.loaded(config_sha256)

    def loaded(self, config_sha256: str) -> None:
        """This configuration is in effect from now on."""
        if config_sha256 != self._config_sha256:
            self._families.remove_gauge("config_info", self._config_sha256)
            self._config_sha256 = config_sha256
        self._families.gauge("config_info", config_sha256).set(1)
        self._successful.set(1)
        self._succeeded_at.set_to_current_time()

    def not_loaded(self) -> None:
        """A new configuration was of no use: the old one stays."""
        self._successful.set(0)

    def certificate(self, name: str, not_after_unix_s: float) -> None:
        """A certificate is in use until then."""
        self._families.gauge("tls_certificate_not_after_timestamp_seconds", name).set(not_after_unix_s)

    def loop_lag(self, lag_s: float) -> None:
        """How late the event loop ran a timer."""
        self._loop_lag_s.observe(lag_s)
