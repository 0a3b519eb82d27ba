"""`/v1/models` as OpenAI's clients read it."""

from __future__ import annotations

import pytest

from gateway.api.models import models_page
from gateway.errors import ApiError

MODELS = {"m": 4096, "org/big": None}
M = {"id": "m", "object": "model", "created": 7, "owned_by": "kvgate", "max_model_len": 4096}
BIG = {"id": "org/big", "object": "model", "created": 7, "owned_by": "kvgate"}


def test_all_of_them() -> None:
    assert models_page("/v1/models", MODELS, 7) == {"object": "list", "data": [M, BIG]}


@pytest.mark.parametrize(
    ("path", "shown"), [("/v1/models/m", M), ("/v1/models/org/big", BIG), ("/v1/models/org%2Fbig", BIG)]
)
def test_one_of_them(path: str, shown: dict[str, object]) -> None:
    """Clients may write the slash in a name as it is, or encoded."""
    assert models_page(path, MODELS, 7) == shown


@pytest.mark.parametrize("name", ["x", "", "x" * 1000])
def test_one_that_does_not_exist(name: str) -> None:
    """The name is repeated, but not all of any length."""
    with pytest.raises(ApiError) as caught:
        models_page(f"/v1/models/{name}", MODELS, 7)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert len(caught.value.message) < 400
