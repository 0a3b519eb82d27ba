"""The one error that a caller of the estimator can cause."""

from __future__ import annotations


class EstimatorError(ValueError):
    """A model description or a request that cannot be priced; the message is one sentence naming field and value."""
