"""A GGUF file's header as a `Model`: its metadata in the words of a configuration, its weights tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from estimator.architecture import Model
from estimator.checkpoint import Stored, with_stored_weights
from estimator.config_fields import ConfigFields
from estimator.errors import EstimatorError
from estimator.gguf_file import GgufHeader, Skipped, read_header
from estimator.gguf_types import gguf_type
from estimator.hf_config import read_config
from estimator.layer_kinds import FULL_EVERY
from estimator.parts import Role

_RENAMED: Mapping[str, str] = {
    "embedding_length": "hidden_size", "context_length": "max_position_embeddings", "vocab_size": "vocab_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim", "attention.value_length": "v_head_dim",
    "attention.key_length_swa": "swa_head_dim", "attention.value_length_swa": "swa_v_head_dim",
    "attention.kv_lora_rank": "kv_lora_rank", "attention.q_lora_rank": "q_lora_rank",
    "attention.indexer.key_length": "index_head_dim", "attention.indexer.head_count": "index_n_heads",
    "attention.shared_kv_layers": "num_kv_shared_layers", "feed_forward_length": "intermediate_size",
    "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size", "nextn_predict_layers": "num_nextn_predict_layers",
    "ssm.conv_kernel": "mamba_d_conv", "ssm.state_size": "mamba_d_state", "ssm.inner_size": "mamba_inner_size",
    "shortconv.l_cache": "conv_L_cache", "wkv.head_size": "head_size", "token_shift_count": "token_shift_count",
}  # fmt: skip
"""Metadata without its architecture's name, as configurations call it."""
_FAMILIES: Mapping[str, str] = {
    "gemma3": "gemma3_text", "gemma4": "gemma4_text", "gpt-oss": "gpt_oss", "falcon-h1": "falcon_h1",
    "nemotron_h_moe": "nemotron_h",
}  # fmt: skip
"""`model_type` of architectures whose name llama.cpp spells in another way."""
_MAMBA_1 = ("mamba", "jamba")
_DELTA = ("qwen3next", "qwen35", "qwen35moe")
_DELTA_FULL_EVERY = 4
_LAYERS_MAX = 4096
_LLAMA_4_CHUNK = 8192
"""llama.cpp takes it to be so: the header does not say."""
_ROLES: tuple[tuple[str, Role], ...] = (
    ("nextn", "draft"), ("mtp", "draft"), ("rope_freqs", "norm"), ("token_embd", "embedding"),
    ("position_embd", "norm"), ("indexer", "index"), ("ssm_", "state"), ("shortconv", "state"), ("time_mix", "state"),
    ("norm", "norm"), (".bias", "norm"), ("attn_q_a", "latent"), ("attn_kv_a", "latent"), ("attn_k_b", "attention"),
    ("attn_v_b", "attention"), ("attn_kv_b", "attention"), ("attn_k", "kv"), ("attn_v", "kv"), ("attn", "attention"),
    ("ffn_gate_inp", "router"), ("exp_probs", "router"), ("_shexp", "shared"), ("_exps", "experts"), ("ffn", "mlp"),
    ("channel_mix", "mlp"),
)  # fmt: skip
"""What tensors are, by the first of these that is in their name."""


def load_gguf(path: Path) -> Model:
    """Read a model from the header of a `.gguf` file. Its parameters and their bits are those of its tensors.

    Raises:
        EstimatorError: where the header cannot be read, or lacks what its memory follows from.
    """
    header = read_header(path)
    arch = header.metadata.get("general.architecture")
    if not isinstance(arch, str) or not arch:
        raise EstimatorError(f"{path} is no usable GGUF file: it has no 'general.architecture'.")
    name = header.metadata.get("general.name")
    said = _Said(path, arch, header)
    model = read_config(said.config(), name if isinstance(name, str) and name else path.stem, str(path))
    layers = said.count("block_count")
    stored = [
        Stored(_role(tensor.name, layers - model.draft_layers), tensor.elements, tensor.bytes)
        for tensor in header.tensors
    ]
    # What vLLM makes of weights as it loads them is no part of llama.cpp's memory.
    model = replace(model, parts=(), notes=(*model.notes, *said.notes))
    return with_stored_weights(model, stored, said.file_type(), layers) if stored else model


def _role(name: str, layers: int) -> Role:
    pieces = name.split(".")
    if pieces[0] == "blk" and len(pieces) > 1 and pieces[1].isdecimal() and int(pieces[1]) >= layers:
        return "draft"
    if name == "output.weight":
        return "head"
    return next((role for word, role in _ROLES if word in name), "norm")


class _Said:
    """What a header says, in the words of a configuration."""

    def __init__(self, path: Path, arch: str, header: GgufHeader) -> None:
        self._path, self._arch, self._metadata = path, arch, header.metadata
        self._fields = ConfigFields(str(path), self._metadata)
        self.notes: list[str] = []

    def count(self, name: str) -> int:
        """A count that must be there."""
        return self._fields.count(f"{self._arch}.{name}")

    def file_type(self) -> str:
        """Such as "Q4_K_M"."""
        number = self._metadata.get("general.file_type")
        return (gguf_type(str(number)) if isinstance(number, int) else None) or "GGUF"

    def config(self) -> dict[str, object]:
        """All of it."""
        found: dict[str, object] = {"model_type": _FAMILIES.get(self._arch, self._arch), "torch_dtype": "float16"}
        found["architectures"] = [self._arch]
        for theirs, ours in _RENAMED.items():
            value = self._metadata.get(f"{self._arch}.{theirs}")
            if isinstance(value, Skipped):
                raise EstimatorError(f"{self._path}: '{self._arch}.{theirs}' has {value.items:,} entries.")
            if value is not None and value != 0:
                found[ours] = list(value) if isinstance(value, tuple) else value
        drafts = found.get("num_nextn_predict_layers", 0)
        layers = self.count("block_count")
        if layers > _LAYERS_MAX:
            raise EstimatorError(f"{self._path}: '{self._arch}.block_count' is {layers:,}: more than {_LAYERS_MAX:,}.")
        found["num_hidden_layers"] = layers - (drafts if isinstance(drafts, int) else 0)
        self._per_layer(found)
        self._latent(found)
        self._states(found)
        self._windows(found)
        if self._arch == "t5":
            found["is_encoder_decoder"] = True
        return found

    def _per_layer(self, found: dict[str, object]) -> None:
        """Heads that differ from layer to layer; none in layers that do not attend."""
        queries = found.get("num_attention_heads")
        if isinstance(queries, list):
            found["num_attention_heads"] = max((q for q in queries if isinstance(q, int)), default=0)
        heads = found.get("num_key_value_heads")
        if not isinstance(heads, list):
            return
        swa = self._sliding_marks()
        kept = [h for h in heads if h]
        if len(kept) < len(heads):
            states = "conv" if "conv_L_cache" in found else "mamba" if self._has("ssm.inner_size") else "mlp"
            found["layer_types"] = ["full_attention" if h else states for h in heads]
        if len(set(kept)) <= 1:
            found["num_key_value_heads"] = kept[0] if kept else None
            return
        full = {h for h, sliding in zip(heads, swa, strict=False) if not sliding}
        windowed = {h for h, sliding in zip(heads, swa, strict=False) if sliding}
        if not swa:
            found["num_key_value_heads_per_layer"] = kept
            found["num_key_value_heads"] = max(kept)
        elif len(full) == len(windowed) == 1:
            found["num_key_value_heads"], found["swa_num_key_value_heads"] = full.pop(), windowed.pop()
        else:
            raise EstimatorError(f"{self._path}: layers of one kind differ in 'head_count_kv': they cannot be priced.")

    def _latent(self, found: dict[str, object]) -> None:
        """MLA: files since April 2025 state a head's own sizes beside those of the latent."""
        if "kv_lora_rank" not in found:
            return
        rope = self.count("rope.dimension_count")
        key = self._fields.count(f"{self._arch}.attention.key_length_mla", f"{self._arch}.attention.key_length")
        value = self._fields.count(f"{self._arch}.attention.value_length_mla", f"{self._arch}.attention.value_length")
        if key <= rope:
            raise EstimatorError(f"{self._path}: 'rope.dimension_count' {rope} leaves nothing of keys of {key}.")
        found |= {"qk_rope_head_dim": rope, "qk_nope_head_dim": key - rope, "v_head_dim": value}

    def _states(self, found: dict[str, object]) -> None:
        if self._arch in _DELTA:
            heads, inner = self.count("ssm.time_step_rank"), self.count("ssm.inner_size")
            found["full_attention_interval"] = self._or("full_attention_interval", _DELTA_FULL_EVERY)
            found |= {
                "linear_num_value_heads": heads, "linear_value_head_dim": inner // heads,
                "linear_num_key_heads": self.count("ssm.group_count"),
                "linear_key_head_dim": self.count("ssm.state_size"),
                "linear_conv_kernel_dim": self.count("ssm.conv_kernel"), "mamba_ssm_dtype": "float32",
            }  # fmt: skip
        elif self._has("kda.head_dim"):
            dim, kernel = self.count("kda.head_dim"), self.count("ssm.conv_kernel")
            types = found.pop("layer_types", [])
            full = (
                [i + 1 for i, kind in enumerate(types) if kind == "full_attention"] if isinstance(types, list) else []
            )
            found["linear_attn_config"] = {
                "num_heads": found.get("num_attention_heads"), "head_dim": dim, "short_conv_kernel_size": kernel,
                "full_attn_layers": full,
            }  # fmt: skip
        elif self._has("ssm.inner_size") and self._arch not in _MAMBA_1:
            heads, inner = self.count("ssm.time_step_rank"), self.count("ssm.inner_size")
            found |= {"mamba_n_heads": heads, "mamba_d_head": inner // heads, "mamba_d_ssm": inner}
            found["mamba_n_groups"] = self._or("ssm.group_count", 1)

    def _windows(self, found: dict[str, object]) -> None:
        """Windows as llama.cpp keeps them: only in architectures for which it knows which layers have one."""
        if self._arch == "llama4":
            found["attention_chunk_size"] = _LLAMA_4_CHUNK
            return
        window = self._metadata.get(f"{self._arch}.attention.sliding_window")
        if not window:
            return
        marks = self._sliding_marks()
        if marks and "layer_types" not in found:
            found["layer_types"] = ["sliding_attention" if mark else "full_attention" for mark in marks]
        elif str(found["model_type"]) not in FULL_EVERY:
            self.notes.append(f"The file names a window of {window} tokens, not which layers have it: none is counted.")
            return
        found["sliding_window"] = window

    def _sliding_marks(self) -> tuple[object, ...]:
        """True per layer with a window, where the file says so layer by layer."""
        found = self._metadata.get(f"{self._arch}.attention.sliding_window_pattern")
        if isinstance(found, tuple):
            return found
        if isinstance(found, int) and found > 1:
            return tuple((i + 1) % found != 0 for i in range(self.count("block_count")))
        return ()

    def _has(self, name: str) -> bool:
        return bool(self._metadata.get(f"{self._arch}.{name}"))

    def _or(self, name: str, default: int) -> int:
        return self._fields.count_if_any(f"{self._arch}.{name}") or default
