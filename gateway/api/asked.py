"""A request and its answer as the endpoints see them, whoever reads them from the wire and writes them to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class Asked(Protocol):
    """A request whose head has come."""

    @property
    def method(self) -> str:
        """As it was sent."""

    @property
    def path(self) -> str:
        """As it was sent, without the query."""

    @property
    def headers(self) -> Mapping[str, str]:
        """To be asked for names in lower case."""

    @property
    def body_bytes(self) -> int | None:
        """Length of the body, if the head tells."""

    @property
    def arrived(self) -> bytes | None:
        """The body, if all of it is there already."""

    async def read(self) -> bytes:
        """The body, waiting for it.

        Raises:
            ApiError: it is too long, or not framed as it claims, or the client expects something of us first.
        """


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer that is no engine's."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    close: bool = False
    """The connection must end with it."""
