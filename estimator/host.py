"""What a server needs beside its GPUs: disk for the checkpoint, and memory of the host to load it through."""

from __future__ import annotations

from dataclasses import dataclass

from estimator.architecture import Model
from estimator.quantization import Quantization
from estimator.weights import weights

_SHARD_BYTES = 5 * 10**9
"""Largest file of a checkpoint as transformers 4 cuts it (`max_shard_size`)."""
_PROCESS_BYTES = 3 * 2**30
"""One rank's process: interpreter, libraries, pinned buffers. A round figure."""
_SPARE_SHARE = 0.1
"""Tokenizer, temporary files of a download, a little air."""


@dataclass(frozen=True, slots=True)
class HostNeeds:
    """Of one copy of a model, in bytes."""

    checkpoint: int
    """The files of the weights, from the configuration."""
    disk: int
    """To hold the checkpoint once; twice that while it is converted or exchanged for another."""
    ram_least: int
    """Files are mapped and read shard by shard: one shard, and a process per GPU."""
    ram_good: int
    """The whole checkpoint stays in the page cache, so that a restart does not read the disk."""


def host_needs(model: Model, gpus: int, quantization: Quantization | None = None) -> HostNeeds:
    """Needs from the size of the checkpoint.

    Args:
        model: from `load_model`.
        gpus: ranks on this host.
        quantization: how the weights are stored, where it is not as the configuration says.

    Raises:
        EstimatorError: for a model without a description of its weights.
    """
    size = weights(model, quantization=quantization, loaded=False).bytes_per_gpu
    processes = gpus * _PROCESS_BYTES
    return HostNeeds(
        checkpoint=size,
        disk=round(size * (1 + _SPARE_SHARE)),
        ram_least=min(size, _SHARD_BYTES) + processes,
        ram_good=size + processes,
    )
