"""What sections are made of: the kinds of values that keys take, with their checks, and what all sections share."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
MODEL_NAME = re.compile(r"[A-Za-z0-9._:/@-]{1,256}")


class Section(BaseModel):
    """What all parts share: unknown keys are refused, values never change, errors do not quote their input."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )


def check_url(url: str) -> str:
    """A base URL: scheme, host, perhaps a port and a path; nothing that hides a secret or a second meaning."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or password: use api_key")
    if not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must name a host, in plain ASCII")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ValueError("must not have a query or a fragment")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("the port must be from 1 to 65535")
    return url.rstrip("/")


def check_store_url(url: str) -> str:
    """Where a store is; its password stands elsewhere."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    if parts.password is not None or "password" in parts.query:
        raise ValueError("must not hold a password: use ledger.password")
    if not (parts.path if parts.scheme == "unix" else parts.hostname) or not url.isascii() or " " in url:
        raise ValueError("must name a host, or a socket's path, in plain ASCII")
    return url


def check_models(models: dict[str, str]) -> dict[str, str]:
    for name in (*models, *models.values()):
        if not MODEL_NAME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is no model name: letters, digits and ._:/@- only, 256 at most")
    return models


def backend_name(url: str) -> str:
    """A name for a backend of which only the URL is known: its host and port, `127-0-0-1-8000`."""
    return re.sub(r"[^a-z0-9]+", "-", urlsplit(url).netloc.lower().rpartition("@")[2]).strip("-")[:63].strip("-")


def check_number(value: object) -> object:
    """YAML reads `yes` and `on` as booleans, and Python counts them as 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004  # pydantic collects ValueErrors
    return value


Whole = Annotated[int, BeforeValidator(check_number)]
Real = Annotated[float, BeforeValidator(check_number)]
Name = Annotated[str, Field(pattern=NAME)]
Port = Annotated[Whole, Field(ge=0, le=65535)]
Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:_%-]+$")]
Url = Annotated[str, AfterValidator(check_url)]
StoreUrl = Annotated[str, Field(max_length=1024), AfterValidator(check_store_url)]
Models = Annotated[dict[str, str], AfterValidator(check_models)]
Seconds = Annotated[Real, Field(gt=0, le=86_400, allow_inf_nan=False)]
Positive = Annotated[Whole, Field(ge=1, le=2**53)]
Count = Annotated[Whole, Field(ge=0, le=2**53)]
