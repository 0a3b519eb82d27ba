"""`/v1/models`: what the gateway serves, as OpenAI lists it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from gateway.errors import model_not_found

MODELS = "/v1/models"


def models_page(path: str, models: Mapping[str, int | None], started_at_unix_s: int) -> dict[str, object]:
    """The list, or below it the entry of one model.

    Args:
        path: `/v1/models` or `/v1/models/{id}`.
        models: names with the longest prompt plus output that each takes, where it is known.
        started_at_unix_s: the `created` of models.

    Raises:
        ApiError: 404, there is no such model.
    """
    if path == MODELS:
        return {"object": "list", "data": [_shown(*model, started_at_unix_s) for model in models.items()]}
    name = unquote(path.removeprefix(f"{MODELS}/"))
    if name not in models:
        raise model_not_found(name[:256])
    return _shown(name, models[name], started_at_unix_s)


def _shown(name: str, context_tokens: int | None, started_at_unix_s: int) -> dict[str, object]:
    model: dict[str, object] = {"id": name, "object": "model", "created": started_at_unix_s, "owned_by": "kvgate"}
    if context_tokens is not None:
        model["max_model_len"] = context_tokens
    return model
