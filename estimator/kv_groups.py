"""Cuts a model's KV cache into groups as vLLM's KV cache manager does: block lengths, page sizes, layers per group.

Source: vLLM 0.32, `v1/core/kv_cache_utils.py` and `platforms/interface.py`; checked against its own answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from estimator.architecture import Attention, Model
from estimator.errors import EstimatorError
from estimator.kv_blocks import KvGroup, KvLayout
from estimator.kv_formats import KvFormat

TOKENS_IN_FLIGHT = 2 * 8192
"""Tokens that vLLM's window groups may hold beyond the window while a prompt is being read: two batches of 8192."""
_PACKED_TOKENS, _WINDOW_TOKENS = 256, 64
"""Tokens of a block where latents stand for several of them, and of a block of windows beside them."""
_KERNEL_TOKENS, _LATENT_KERNEL_TOKENS = 16, 128
"""What the length of a block beside states is a multiple of: kernels take no other."""


@dataclass(frozen=True, slots=True)
class KvRules:
    """How an engine and its settings manage the pool, beyond the sizes of `kv_layout`."""

    pp: int = 1
    """Pipeline stages; the stage with most layers counts, because block ids are common to all."""
    dcp: int = 1
    """Ranks that share each sequence's tokens (decode context parallelism)."""
    groups: bool = True
    """False where all layers are given blocks as if they saw everything (vLLM up to 0.8, or its hybrid manager off)."""
    prefix_caching: bool = True
    """With it a state has a second block, which the next cached position is written to."""
    checkpoint_block: bool = True
    """Whether Mamba 2 has one more block for the position a prompt is cached at (vLLM 0.32)."""
    draft_tokens: int = 0
    """Tokens drafted per step: each needs a state of its own."""
    draft_layers: int = 0
    """Draft layers (MTP, EAGLE) that keep KV in the same pool."""


DEFAULT_RULES = KvRules()


@dataclass(frozen=True, slots=True)
class _Page:
    """What one layer of a kind keeps in one block, before and after pages are made one size."""

    kind: str
    layers: int
    block_tokens: int
    page_bytes: float
    window: int = 0
    blocks: int = 1
    latent: bool = False


@lru_cache(maxsize=256)
def kv_layout(
    model: Model,
    *,
    block_tokens: int = 16,
    kv_dtype: str = "auto",
    tp: int = 1,
    tokens_in_flight: int = TOKENS_IN_FLIGHT,
    rules: KvRules = DEFAULT_RULES,
) -> KvLayout:
    """Cut a model's KV cache into groups, as vLLM does.

    Kept for the last few models and settings: a gateway asks for the same per request.

    Pages of different sizes are made one size by longer blocks, or by padding where one does not divide the other.
    Then the groups get as many layers as the kind with fewest has (or most, if that is less than half more), so that
    one block is the same number of bytes in every group.

    Args:
        model: from `load_model`.
        block_tokens: the engine's block size; beside states it is raised until a block holds a state.
        kv_dtype: "auto" or a key of `KV_FORMATS`.
        tp: GPUs that share the heads.
        tokens_in_flight: what a window group may hold beyond its window while a prompt is being read.
        rules: the rest.

    Raises:
        EstimatorError: for sizes that no engine takes, and for page sizes that cannot be made equal.
    """
    model.check_tp(tp)
    _check(block_tokens, tp, rules)
    stored = model.kv_format(kv_dtype)
    attentions = _attentions(model, rules)
    block_tokens = _block_tokens(model, attentions, block_tokens, stored, tp, rules)
    pages = [_attention_page(a, block_tokens, stored, tp, tokens_in_flight) for a in attentions]
    if not pages and not model.states:
        return KvLayout(())
    if any(attention.tokens_per_state > 1 for attention in attentions):
        return _packed(attentions, block_tokens, stored, tp, tokens_in_flight)
    if not model.states and (not rules.groups or len({(page.kind, page.window) for page in pages}) == 1):
        return KvLayout((_one_group(attentions, pages, block_tokens, rules),))
    if not rules.groups and pages:
        return KvLayout((_one_group(attentions, pages, block_tokens, rules),))
    if any(attention.index_bytes for attention in attentions):
        raise EstimatorError(f"{model.name} mixes kinds of layers with a sparse index: its grouping is not known.")
    return _grouped(model, [*pages, *_state_pages(model, block_tokens, tp, rules, alone=not pages)], rules)


def _check(block_tokens: int, tp: int, rules: KvRules) -> None:
    for name, value in (("The block size", block_tokens), ("pp", rules.pp), ("dcp", rules.dcp)):
        if value < 1:
            raise EstimatorError(f"{name} is {value}: it must be 1 or more.")
    if tp % rules.dcp:
        raise EstimatorError(f"dcp {rules.dcp} does not divide tp {tp}.")


def _attentions(model: Model, rules: KvRules) -> list[Attention]:
    """The layers to give blocks to: without those of encoders, with those that draft."""
    kept = [attention for attention in model.attentions if attention.kind != "encoder"]
    if not rules.groups:
        kept = [replace(a, kind="full", window=0) for a in kept]
    for i, attention in enumerate(kept):
        if rules.draft_layers and attention.kind == "full":
            index = rules.draft_layers if attention.index_bytes else 0
            layers = attention.layers + rules.draft_layers
            kept[i] = replace(attention, layers=layers, index_layers=attention.index_layers + index)
            break
    if rules.dcp > 1 and any(attention.kind != "full" for attention in kept):
        raise EstimatorError(f"dcp {rules.dcp} does not go with the windows of {model.name}.")
    return kept


def _block_tokens(
    model: Model, attentions: list[Attention], block_tokens: int, stored: KvFormat, tp: int, rules: KvRules
) -> int:
    """Beside states a block is long enough that its page holds a state."""
    if not model.states or not attentions or not rules.groups:
        return block_tokens
    per_token = attentions[0].bytes_per_token(stored, tp)
    step = max(block_tokens, _LATENT_KERNEL_TOKENS if attentions[0].latent else _KERNEL_TOKENS)
    state = max(each.bytes(tp, rules.draft_tokens) for each in model.states)
    return max(block_tokens, step * -int(-state // (step * per_token)))


def _attention_page(attention: Attention, block_tokens: int, stored: KvFormat, tp: int, in_flight: int) -> _Page:
    page = attention.bytes_per_token(stored, tp) * block_tokens
    window, blocks = 0, 1
    match attention.kind:
        case "sliding":
            window = attention.window - 1 + in_flight
        case "chunked":
            window = attention.window + in_flight
        case "cross":
            blocks = -(-attention.window // block_tokens)
        case _:
            pass
    return _Page(attention.kind, attention.layers, block_tokens, page, window, blocks, attention.latent)


def _state_pages(model: Model, block_tokens: int, tp: int, rules: KvRules, *, alone: bool) -> list[_Page]:
    pages = []
    for state in model.states:
        # Models without attention have no prefix cache: one state, no spare.
        spare = 0 if alone or not rules.prefix_caching else 1
        checkpoint = int(bool(spare) and rules.checkpoint_block and state.kind == "mamba2")
        blocks = 1 + spare + checkpoint + rules.draft_tokens
        pages.append(_Page("state", state.layers, block_tokens, state.bytes(tp, rules.draft_tokens), 0, blocks))
    return pages


def _one_group(attentions: list[Attention], pages: list[_Page], block_tokens: int, rules: KvRules) -> KvGroup:
    """All layers need the same tokens: one block id stands for all their pages, of whatever size."""
    size = sum(_stage(page.layers, rules) * page.page_bytes for page in pages)
    size += sum(_stage(a.index_layers, rules) * a.index_bytes * block_tokens for a in attentions)
    layers = sum(page.layers for page in pages)
    first = pages[0]
    return KvGroup(first.kind, layers, block_tokens * rules.dcp, int(size), first.window, first.blocks)


def _stage(layers: int, rules: KvRules) -> int:
    return -(-layers // rules.pp)


def _packed(
    attentions: list[Attention], block_tokens: int, stored: KvFormat, tp: int, tokens_in_flight: int
) -> KvLayout:
    """Pages of all sizes side by side: the growing layers fill a block, and windows are split until they fit in one.

    An estimate: vLLM also packs what its compressors keep.
    """
    tokens = max(block_tokens, _PACKED_TOKENS)
    growing = [_attention_page(a, tokens, stored, tp, 0) for a in attentions if a.kind == "full"]
    index = sum(a.index_bytes * a.index_layers * tokens for a in attentions)
    size = int(sum(page.page_bytes * page.layers for page in growing)) + index
    groups = [KvGroup("full", sum(page.layers for page in growing), tokens, size)]
    for attention in attentions:
        if attention.kind == "full":
            continue
        page = _attention_page(attention, _WINDOW_TOKENS, stored, tp, tokens_in_flight)
        layers = max(1, int(size // page.page_bytes))
        group = KvGroup(page.kind, layers, _WINDOW_TOKENS, size, page.window)
        groups += [group] * -(-page.layers // layers)
    return KvLayout(tuple(groups))


def _grouped(model: Model, pages: list[_Page], rules: KvRules) -> KvLayout:
    page_bytes = max(page.page_bytes for page in pages)
    counts = [page.layers for page in pages]
    size = max(counts) if max(counts) < 1.5 * min(counts) else min(counts)
    bytes_per_block = int(page_bytes * _stage(size, rules))
    groups: list[KvGroup] = []
    for page in pages:
        longer, rest = divmod(page_bytes, page.page_bytes)
        if page.kind == "state" or (rest and not page.latent):
            longer = 1  # padded: a state has one size, and other pages must divide the largest
        elif rest:
            raise EstimatorError(
                f"{model.name} mixes latents with pages of {page_bytes:,.0f} bytes: none divides both."
            )
        tokens = page.block_tokens * int(longer) * (rules.dcp if page.kind == "full" else 1)
        blocks = -(-page.blocks // int(longer)) if page.kind == "cross" else page.blocks
        group = KvGroup(page.kind, size, tokens, bytes_per_block, page.window, blocks)
        groups += [group] * -(-page.layers // size)
    return KvLayout(tuple(groups))
