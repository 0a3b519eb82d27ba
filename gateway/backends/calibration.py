"""Holds the formula's KV layout against the numbers that an engine states, and picks the layout to count by; pure.

An engine states how many blocks its pool has and how many tokens of longest sequences they hold. For a model whose
layers share the blocks in groups the second number says nothing about short sequences, which take a block in every
group: only the layout does. It comes from `kv.model_config`, or from the catalogue if it explains the engine's numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from estimator.architecture import Model
from estimator.catalog import find_variant
from estimator.engine import engine
from estimator.errors import EstimatorError
from estimator.hf_config import read_config
from estimator.kv_blocks import KvLayout
from estimator.kv_formats import KV_FORMATS
from estimator.kv_groups import KvRules, kv_layout

TOLERANCE = 0.01
"""Share by which formula and engine may differ; a block of a small pool is more, and may be off too."""
NAME_CHARS_MAX = 256
CONTEXT_TOKENS_MAX = 2**40
_BATCH_TOKENS = (
    *(8192, 2048, 16_384, 512, 1024, 3072, 4096, 5120, 6144, 10_240, 12_288, 20_480, 24_576, 32_768, 40_960),
    *(49_152, 65_536, 131_072),
)
"""Windows are given room for a batch or two, whose size no engine states: the usual ones, most usual first."""
_TP = (1, 2, 4, 8, 16)
"""Kinds of layers shrink differently with tensor parallelism, which no engine states either."""
_SET_IT = "set kv.model_config to the model's config.json or to a name of the catalogue"


@dataclass(frozen=True, slots=True)
class Told:
    """What an engine states that the formula needs; None where it does not."""

    block_tokens: int
    blocks: int | None = None
    """Of one rank, the null block included."""
    tokens: int | None = None
    """The same pool in tokens of sequences of the longest length."""
    uniform: bool = True
    """Whether the tokens are the blocks times their length."""
    context_tokens: int | None = None
    kv_dtype: str = "auto"
    prefix_caching: bool = True
    version: str = ""
    names: tuple[str, ...] = ()
    """What it calls its model: looked up in the catalogue, never opened."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Which layout counts a backend's pool, and how well it agrees with the engine."""

    source: str
    """"kv.model_config", "catalogue" or "uniform"."""
    model: str = ""
    """Whose formula was compared; empty where none was."""
    layout: KvLayout | None = None
    """None: a uniform pool of the engine's own tokens."""
    engine_tokens: int | None = None
    formula_tokens: int | None = None
    warning: str = ""
    """What is doubtful, with its remedy; empty where nothing is."""
    is_problem: bool = False
    """Whether the operator's own word is in doubt."""

    @property
    def ratio(self) -> float | None:
        """The engine's tokens by the formula's; None where one of them is not known."""
        return self.engine_tokens / self.formula_tokens if self.engine_tokens and self.formula_tokens else None

    @property
    def described(self) -> str:
        """The source, for people."""
        return self.source if self.source == "uniform" else f"from {self.source} {self.model}"

    @property
    def plain(self) -> dict[str, object]:
        """For JSON."""
        return {
            "described": self.described,
            "engine_tokens": self.engine_tokens,
            "formula_tokens": self.formula_tokens,
            "ratio": self.ratio,
            "warning": self.warning or None,
        }


def calibrate(told: Told, stated: Model | None, *, from_catalogue: bool = True) -> Calibration:
    """Compare the formula with the engine, and choose what to count by. Takes milliseconds: not for the event loop.

    1. The operator's model wins, with a warning where the engine's numbers differ.
    2. Else a model of the catalogue that has the engine's name for it, if it explains the engine's numbers.
    3. Else the engine's own tokens, with a warning where its layers share blocks in groups.

    Args:
        told: by the engine.
        stated: the model of `kv.model_config`, if there is one.
        from_catalogue: False where the operator states sizes of the pool, which then count as they are.
    """
    if stated is not None:
        return _by_operator(told, stated)
    doubt = useless = ""
    compared = Calibration("uniform")
    for name in told.names:
        try:
            model = catalogue_model(name[:NAME_CHARS_MAX])
            found = None if model is None else _compared(told, model, "catalogue")
        except EstimatorError as error:
            useless = f"the catalogue's formula is of no use: {error}; "
            continue
        if found is None:
            continue
        if _agrees(found, told) and from_catalogue:
            return found
        compared, doubt = _unused(found, told)
        break
    if not told.uniform:
        groups = "its layers share blocks in groups: short requests may be over-admitted until telemetry corrects it"
        doubt = f"{f'{doubt}; ' if doubt else useless}{groups}; {_SET_IT}"
    return Calibration("uniform", compared.model, None, compared.engine_tokens, compared.formula_tokens, doubt)


@lru_cache(maxsize=64)
def catalogue_model(name: str) -> Model | None:
    """The catalogue's model of this id, or of which it names a variant; None without one. Opens no other file.

    Raises:
        EstimatorError: the model cannot be read.
    """
    entry = find_variant(name)
    return None if entry is None else read_config(entry.config, entry.name, entry.source)


def _by_operator(told: Told, model: Model) -> Calibration:
    try:
        found = _compared(told, model, "kv.model_config")
    except EstimatorError as error:
        warning = f"it does not fit this engine, whose own tokens count instead: {error}"
        return Calibration("uniform", model.name, warning=warning, is_problem=True)
    if found.ratio is None or _agrees(found, told):
        return found
    warning = f"{_difference(found)}; is it the engine's model? Correct it, or remove it to count the engine's tokens"
    return Calibration(
        found.source, found.model, found.layout, found.engine_tokens, found.formula_tokens, warning, is_problem=True
    )


def _unused(found: Calibration, told: Told) -> tuple[Calibration, str]:
    """Why a model of the catalogue does not count; nothing where that changes nothing."""
    if found.ratio is not None:
        return found, "" if _agrees(found, told) else f"{_difference(found)}, so it is not used"
    if found.layout is not None and len(found.layout.groups) > 1:
        return found, (
            f"this version of the engine does not state its tokens, and {found.model} may share blocks in groups: "
            f"short requests may be over-admitted until telemetry corrects it; {_SET_IT}"
        )
    return found, ""


def _difference(found: Calibration) -> str:
    return (
        f"the engine states {found.engine_tokens:,} tokens of KV cache, the formula for {found.model} "
        f"{found.formula_tokens:,}"
    )


def _agrees(found: Calibration, told: Told) -> bool:
    if found.engine_tokens is None or found.formula_tokens is None:
        return False
    off = abs(found.engine_tokens - found.formula_tokens)
    return off <= max(TOLERANCE * found.engine_tokens, told.block_tokens)


def _compared(told: Told, model: Model, source: str) -> Calibration:
    """A model's layout: the one that comes nearest to the engine's tokens, of those that settings may have led to."""
    best: KvLayout | None = None
    best_tokens: int | None = None
    for layout in _layouts(told, model):
        tokens = _tokens(told, layout)
        if best is None or tokens is None or best_tokens is None or _off(told, tokens) < _off(told, best_tokens):
            best, best_tokens = layout, tokens
        if tokens is None or tokens == told.tokens:
            break
    return Calibration(source, model.name, best, told.tokens, best_tokens)


def _off(told: Told, tokens: int) -> int:
    return abs(tokens - (told.tokens or 0))


def _tokens(told: Told, layout: KvLayout) -> int | None:
    """As vLLM states them: its concurrency at the longest length times that length; None where nothing compares."""
    context = told.context_tokens
    if told.tokens is None or told.blocks is None or context is None or context > CONTEXT_TOKENS_MAX:
        return None
    planned = layout.planned(context)
    return int(told.blocks / planned * context) if planned else None


def _layouts(told: Told, model: Model) -> Iterator[KvLayout]:
    of = engine("vllm", told.version)
    rules = KvRules(groups=of.groups_layers, prefix_caching=told.prefix_caching, checkpoint_block=of.checkpoint_block)
    windows = any(attention.kind in {"sliding", "chunked"} for attention in model.attentions)
    for tp in _TP if model.hybrid else _TP[:1]:
        for batch_tokens in _BATCH_TOKENS if windows else _BATCH_TOKENS[:1]:
            try:
                yield kv_layout(
                    model,
                    block_tokens=told.block_tokens,
                    kv_dtype=told.kv_dtype if told.kv_dtype in KV_FORMATS else "auto",
                    tp=tp,
                    tokens_in_flight=of.batches_in_flight * batch_tokens,
                    rules=rules,
                )
            except EstimatorError:
                if tp == 1:
                    raise
                return
