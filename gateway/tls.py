"""The certificates of the listeners: read, checked against their keys, and read anew while connections are served."""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

FILE_BYTES_MAX = 2**20
"""No chain of certificates comes near."""
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_TIME_FORMATS = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}


class TlsError(Exception):
    """A certificate or key cannot be used. `key` names which: `certificate` or `key`."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.message = message


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where a listener's certificate, with its chain, and its private key lie; PEM."""

    certificate: Path
    key: Path


@dataclass(slots=True)
class ServerTls:
    """TLS of one listener."""

    context: ssl.SSLContext
    """What the listener is given, once for all."""
    sha256: str
    """Of the certificate: tells it from others."""
    not_after_unix_s: float
    """End of the certificate's life."""

    def renew(self, newest: ServerTls) -> None:
        """Show this certificate from the next handshake on. Connections that stand keep theirs."""

        def show(connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = newest.context

        # Called whether or not the client names a server.
        self.context.sni_callback = show
        self.sha256, self.not_after_unix_s = newest.sha256, newest.not_after_unix_s


def server_tls(files: CertificateFiles) -> ServerTls:
    """TLS 1.2 or newer with this certificate. One that has expired is taken: whether to serve is not decided here.

    Raises:
        TlsError: a file cannot be read, is not PEM, or the key is not the certificate's.
    """
    certificate = _read(files.certificate, "certificate")
    _read(files.key, "key")
    try:
        der = ssl.PEM_cert_to_DER_cert(_first_certificate(certificate))
        not_after_unix_s = not_after(der)
    except ValueError:
        raise TlsError("certificate", f"{files.certificate} does not begin with a certificate in PEM") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without the callback OpenSSL would ask the terminal for the password of an encrypted key, and wait.
        context.load_cert_chain(files.certificate, files.key, _no_password)
    except ssl.SSLError as error:
        raise TlsError("key", f"{files.key} is not the key of {files.certificate}: {_why(error)}") from None
    return ServerTls(context, hashlib.sha256(der).hexdigest(), not_after_unix_s)


def not_after(der: bytes) -> float:
    """End of a certificate's life, from its DER, in seconds of Unix time.

    Certificate, TBSCertificate and Validity are sequences (RFC 5280, section 4.1); of the second, the version may be
    missing, and serial number, signature algorithm and issuer come before the validity.

    Raises:
        ValueError: it is no certificate.
    """
    at = _enter(der, _enter(der, 0))
    if der[at] == _VERSION:
        at = _after(der, at)
    for _ in ("serial number", "signature algorithm", "issuer"):
        at = _after(der, at)
    at = _after(der, _enter(der, at))  # not before
    tag, start, end = _element(der, at)
    if tag not in _TIME_FORMATS:
        raise ValueError("there is no time where the validity ends")
    text = der[start:end].decode("ascii")
    return datetime.strptime(text, _TIME_FORMATS[tag]).replace(tzinfo=UTC).timestamp()


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, and where the content begins and ends."""
    try:
        tag, length, start = der[at], der[at + 1], at + 2
    except IndexError:
        raise ValueError("it ends too early") from None
    if length >= 0x80:
        more = length - 0x80
        length = int.from_bytes(der[start : start + more])
        start += more
    if start + length > len(der):
        raise ValueError("it ends too early")
    return tag, start, start + length


def _enter(der: bytes, at: int) -> int:
    tag, start, _ = _element(der, at)
    if tag != _SEQUENCE:
        raise ValueError("there is no sequence where one belongs")
    return start


def _after(der: bytes, at: int) -> int:
    return _element(der, at)[2]


def _first_certificate(pem: str) -> str:
    """The listener's own certificate stands first, its chain behind it."""
    _, begin, rest = pem.partition("-----BEGIN CERTIFICATE-----")
    body, end, _ = rest.partition("-----END CERTIFICATE-----")
    if not (begin and end):
        raise ValueError("there is no certificate")
    return f"{begin}{body}{end}\n"


def _read(path: Path, key: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise TlsError(key, f"{path} cannot be read: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise TlsError(key, f"{path} is larger than {FILE_BYTES_MAX} bytes")
    return content.decode("ascii", "replace")


def _no_password() -> str:
    return ""


def _why(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
