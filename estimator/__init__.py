"""What serving a model costs in GPU memory. Pure: no network, no clock, nothing of the gateway.

For instance:

    import estimator
    m = estimator.load_model("meta-llama/Llama-3.1-70B")
    estimator.kv_cost(m, prompt_tokens=1024, max_tokens=512, tp=4).bytes_per_gpu
"""

from estimator.architecture import Attention
from estimator.errors import EstimatorError
from estimator.kv_cache import KvCost, KvGroup, KvLayout, kv_cost, kv_layout
from estimator.model import Model, load_model

__all__ = [
    "Attention",
    "EstimatorError",
    "KvCost",
    "KvGroup",
    "KvLayout",
    "Model",
    "kv_cost",
    "kv_layout",
    "load_model",
]
