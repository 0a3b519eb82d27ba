"""What an operator says about a backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from gateway.backends.upstream import UpstreamTimeouts
from gateway.domain import BackendLimits

EngineKind = Literal["vllm", "sglang", "llamacpp", "openai"]
BackendKind = Literal["auto"] | EngineKind


@dataclass(frozen=True, slots=True)
class KvSettings:
    """A KV pool as the operator knows it; each value that is set takes the place of what the engine says."""

    capacity_tokens: int | None = None
    block_size: int | None = None
    model_config: str | None = None
    """Path of a `config.json`, or a catalogue name: gives the KV groups of a hybrid model, which vLLM does not tell."""


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """One entry of `backends:`."""

    name: str
    url: str
    kind: BackendKind = "auto"
    models: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Public name to the engine's name; empty: as the engine lists them."""
    api_key: str | None = field(default=None, repr=False)
    """The secret itself, resolved: never shown."""
    kv: KvSettings = field(default_factory=KvSettings)
    spill_only: bool = False
    limits: BackendLimits = field(default_factory=BackendLimits)
    timeouts: UpstreamTimeouts = field(default_factory=UpstreamTimeouts)
