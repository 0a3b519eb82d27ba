"""The endpoint picker counts its streams, and only where there is one."""

from tests.reporting.page import Page
from tests.reporting.samples import metrics_of_both


def test_streams_are_counted_while_they_run_and_when_they_end() -> None:
    metrics = metrics_of_both()
    assert Page(metrics).get("ext_proc_streams_in_flight") is None
    picker = metrics.ext_proc()
    picker.on_stream_started()
    picker.on_stream_started()
    picker.on_stream_ended("OK")
    picker.on_stream_ended("DATA_LOSS")
    picker.on_stream_started()
    page = Page(metrics)
    assert page.get("ext_proc_streams_in_flight") == 1
    assert page.get("ext_proc_streams_total", code="OK") == 1
    assert page.get("ext_proc_streams_total", code="DATA_LOSS") == 1
    assert page.get("ext_proc_streams_total", code="CANCELLED") == 0
