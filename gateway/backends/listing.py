"""The answer to `GET /v1/models`, as engines and hosted providers give it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import msgspec

MODELS_MAX = 1024
"""Models of one backend that are kept: each may become a row of tables and a label of metrics."""
_ID = re.compile(r"[A-Za-z0-9._:/@+-]{1,256}")


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as its server describes it; None where it does not say."""

    id: str
    root: str = ""
    """What the name stands for: a Hugging Face id or a path on the engine's machine."""
    context_tokens: int | None = None
    input_price_per_million: float | None = None
    """Per million tokens, in the unit of the provider (Novita: 1/10,000 US dollar)."""
    output_price_per_million: float | None = None


class _Entry(msgspec.Struct):
    id: str
    root: object = None
    max_model_len: object = None
    context_size: object = None
    context_length: object = None
    input_token_price_per_m: object = None
    output_token_price_per_m: object = None


class _Page(msgspec.Struct):
    data: list[_Entry]


def parse_listing(body: bytes) -> tuple[ListedModel, ...]:
    """The models of a page. Optional fields of the wrong type are left out, as are names that no client could ask for.

    Raises:
        ValueError: the body is not a list of models.
    """
    try:
        page = msgspec.json.decode(body, type=_Page)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return tuple(_listed(entry) for entry in page.data[:MODELS_MAX] if _ID.fullmatch(entry.id))


def _listed(entry: _Entry) -> ListedModel:
    contexts = (entry.max_model_len, entry.context_size, entry.context_length)
    return ListedModel(
        id=entry.id,
        root=entry.root if isinstance(entry.root, str) else "",
        context_tokens=next((n for n in contexts if isinstance(n, int) and not isinstance(n, bool) and n > 0), None),
        input_price_per_million=_price(entry.input_token_price_per_m),
        output_price_per_million=_price(entry.output_token_price_per_m),
    )


def _price(value: object) -> float | None:
    is_price = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if is_price and isinstance(value, int | float) else None
