"""The key that a command shows to a gateway, given by reference like everywhere."""

from __future__ import annotations

import os
from typing import Annotated, TypeAlias

import typer

AdminToken: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="KVGATE_LISTEN__ADMIN_TOKEN",
        help="Token of the admin port, if it asks for one: env:NAME or file:PATH.",
    ),
]


def bearer(reference: str | None, option: str) -> dict[str, str]:
    """The header that shows the key; none where no key was given.

    Raises:
        BadParameter: the key cannot be read.
    """
    if reference is None:
        return {}
    from gateway.config.secret import resolve  # a fifth of a second, for those that have a key

    try:
        return {"authorization": f"Bearer {resolve(reference, os.environ)}"}
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
