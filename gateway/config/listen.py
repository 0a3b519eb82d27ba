"""Where the gateway listens, with which certificates, and what its admin port asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gateway.config.secret import AdminToken
from gateway.config.values import Host, Port, Section
from gateway.tls import CertificateFiles


class Tls(Section):
    """Certificate of a listener."""

    certificate: Annotated[str, Field(min_length=1, max_length=4096)]
    """PEM file with the certificate, its chain behind it."""
    key: Annotated[str, Field(min_length=1, max_length=4096)]
    """PEM file with its private key, without a password."""

    def files(self) -> CertificateFiles:
        """The same in the words of what reads them."""
        return CertificateFiles(Path(self.certificate), Path(self.key))


class Listen(Section):
    """Where the gateway listens."""

    host: Host = "127.0.0.1"
    """Address of the API."""
    port: Port = 8080
    """Port of the API; 0 takes any free one."""
    admin_host: Host = "127.0.0.1"
    """Address of metrics, state and drain. Any but a loopback one needs admin_token."""
    admin_port: Port = 8081
    """Port of metrics, state and drain; 0 takes any free one."""
    admin_token: AdminToken | None = None
    """What the admin port asks for as 'Authorization: Bearer TOKEN', on every path but /health, /ready and the files of
    its page: env:NAME or file:PATH, of 16 characters and more; null: nothing. A reload reads another, but can neither
    add nor remove it."""
    tls: Tls | None = None
    """Certificate of the API's port, {certificate: PATH, key: PATH}; null: plain HTTP. A reload reads renewed files."""
    admin_tls: Tls | None = None
    """Certificate of the admin port, likewise."""
