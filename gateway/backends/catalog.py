"""Which driver knows which kind of engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.backends.engine import Engine
from gateway.backends.llamacpp import LlamaCpp
from gateway.backends.openai_provider import OpenAiProvider
from gateway.backends.pool import StatedPool
from gateway.backends.settings import EngineKind
from gateway.backends.sglang import Sglang
from gateway.backends.vllm import Vllm

ENGINES: dict[EngineKind, Callable[[str, Mapping[str, str], StatedPool], Engine]] = {
    "vllm": Vllm,
    "sglang": Sglang,
    "llamacpp": LlamaCpp,
    "openai": OpenAiProvider,
}
"""Each takes the backend's name, its models (public name to engine's), and its KV pool as the operator knows it."""
