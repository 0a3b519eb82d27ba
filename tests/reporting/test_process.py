"""The process tells of its build, its configuration, its certificates and its event loop."""

from tests.reporting.page import Page
from tests.reporting.samples import metrics_of_both


def test_the_start_is_a_configuration_that_was_loaded() -> None:
    page = Page(metrics_of_both())
    assert page.get("config_last_reload_successful") == 1
    assert (page.get("config_last_reload_success_timestamp_seconds") or 0) > 1.7e9
    assert page.get("config_info", sha256="abc") == 1
    assert [labels["version"] for labels in page.labels_of("build_info")] == ["1.2.3"]


def test_a_reload_that_fails_changes_one_flag() -> None:
    """What is in effect, and since when, stays."""
    metrics = metrics_of_both()
    before = Page(metrics).get("config_last_reload_success_timestamp_seconds")
    metrics.on_reload(None)
    page = Page(metrics)
    assert page.get("config_last_reload_successful") == 0
    assert page.get("config_last_reload_success_timestamp_seconds") == before
    assert page.labels_of("config_info") == [{"sha256": "abc"}]


def test_a_reload_that_works_takes_the_place_of_the_old_configuration() -> None:
    """Two fingerprints of one process would look like two processes that disagree."""
    metrics = metrics_of_both()
    metrics.on_reload(None)
    metrics.on_reload("def")
    metrics.on_reload("def")
    page = Page(metrics)
    assert page.get("config_last_reload_successful") == 1
    assert page.labels_of("config_info") == [{"sha256": "def"}]


def test_certificates_and_the_loop_are_watched() -> None:
    metrics = metrics_of_both()
    metrics.on_certificate("api", 2e9)
    metrics.on_loop_lag(0.002)
    page = Page(metrics)
    assert page.get("tls_certificate_not_after_timestamp_seconds", name="api") == 2e9
    assert page.get("event_loop_lag_seconds_count") == 1
