"""What serving a model costs in GPU memory. Pure: no network, no clock, nothing of the gateway.

For instance:

    import estimator
    m = estimator.load_model("meta-llama/Llama-3.1-70B")
    estimator.kv_cost(m, prompt_tokens=1024, max_tokens=512, tp=4).bytes_per_gpu
    estimator.plan(m, gpu="H100-80GB", tp=4).concurrency
"""

from importlib import import_module
from typing import TYPE_CHECKING

from estimator.architecture import Attention
from estimator.errors import EstimatorError
from estimator.kv_cache import KvCost, KvGroup, KvLayout, kv_cost, kv_layout
from estimator.model import Model, load_model

if TYPE_CHECKING:
    from estimator.planning import Plan, PlanOptions, plan

__all__ = [
    "Attention",
    "EstimatorError",
    "KvCost",
    "KvGroup",
    "KvLayout",
    "Model",
    "Plan",
    "PlanOptions",
    "kv_cost",
    "kv_layout",
    "load_model",
    "plan",
]
_OF_THE_PLANNER = frozenset({"Plan", "PlanOptions", "plan"})

if not TYPE_CHECKING:  # so that a misspelt name is still found

    def __getattr__(name: str) -> object:
        """The planner is loaded when it is asked for: who prices requests needs none of it."""
        if name in _OF_THE_PLANNER:
            return getattr(import_module("estimator.planning"), name)
        raise AttributeError(f"module 'estimator' has no attribute {name!r}")
