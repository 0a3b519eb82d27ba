"""Reads a metrics page as a scraper does."""

from prometheus_client.parser import text_string_to_metric_families

from gateway.reporting.metrics import Metrics


class Page:
    """The samples of one scrape."""

    def __init__(self, metrics: Metrics) -> None:
        body, _ = metrics.render()
        families = list(text_string_to_metric_families(body.decode()))
        self.names = [family.name for family in families]
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def get(self, name: str, /, **labels: str) -> float | None:
        """One sample, or None where there is none; `name` without the prefix."""
        return self.samples.get((f"kvgate_{name}", frozenset(labels.items())))

    def labels_of(self, name: str) -> list[dict[str, str]]:
        """The label sets under a name."""
        return [dict(labels) for found, labels in self.samples if found == f"kvgate_{name}"]
