"""Makes small Llama models with random weights on the spot, as Hugging Face folders; `gguf_model` makes files of them.

A real engine needs a model that it believes in, not one that talks sense. The sizes matter all the same: an engine that
makes a token in less than a few milliseconds spends its time in its HTTP server, and streams arrive in bursts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

CONTEXT_TOKENS = 4096
BEGIN, END, PAD, TURN_START, TURN_END = SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
FIRST_TEXT_TOKEN = len(SPECIAL_TOKENS)
"""Token ids from here up to `FIRST_TEXT_TOKEN + 256` are single bytes: safe in any prompt made of token ids."""
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COMMON_WORDS = """
the of and to in is that it for was on are as with his they at be this have from or one had by word but not what all
were we when your can said there use an each which she do how their if will up other about out many then them these
so some her would make like him into time has look two more write go see number no way could people my than first
water been call who its now find long down day did get come made may part model memory token request answer
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of a Llama: what decides how fast a step is and how much memory a token needs."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward layers."""
        return 2 * self.hidden


PACED = Shape(layers=12, hidden=768, heads=12, kv_heads=2, head_dim=64)
"""7 to 9 ms per step in vLLM on one core: streams arrive as they do from a real model."""


def byte_alphabet() -> list[str]:
    """The character that byte-level BPE writes for each byte: printable ones stand for themselves.

    Source: `bytes_to_unicode` of GPT-2, restated.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256)]


def vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens by id, and the merges: bytes, and common words built letter by letter, so that words are single tokens."""
    alphabet = byte_alphabet()
    tokens = dict.fromkeys([*SPECIAL_TOKENS, *alphabet])
    merges: dict[tuple[str, str], None] = {}
    for word in COMMON_WORDS.split():
        prefix = alphabet[ord(" ")]
        for letter in word:
            merges[prefix, letter] = None
            prefix += letter
            tokens[prefix] = None
    return list(tokens), list(merges)


def write_huggingface(folder: Path, shape: Shape = PACED) -> Path:
    """Writes a model folder without weights, for engines that can make up their own (vLLM: `--load-format dummy`)."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "config.json": _config(shape),
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BEGIN,
            "eos_token": TURN_END,
            "pad_token": PAD,
            "model_max_length": CONTEXT_TOKENS,
            "chat_template": CHAT_TEMPLATE,
        },
    }
    for name, page in pages.items():
        (folder / name).write_text(json.dumps(page, indent=1))
    return folder


def _config(shape: Shape) -> dict[str, object]:
    tokens, _ = vocabulary()
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": len(tokens),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": CONTEXT_TOKENS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": tokens.index(BEGIN),
        "eos_token_id": tokens.index(TURN_END),
        "pad_token_id": tokens.index(PAD),
    }


def _tokenizer() -> dict[str, object]:
    tokens, merges = vocabulary()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    by_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": tokens.index(token), "content": token, **flags} for token in SPECIAL_TOKENS],
        "normalizer": None,
        "pre_tokenizer": by_bytes,
        "post_processor": None,
        "decoder": by_bytes,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: id_ for id_, token in enumerate(tokens)},
            "merges": [list(pair) for pair in merges],
        },
    }
