"""Certificates of the listeners: which are taken, what is said of the others, and how they are renewed."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from gateway.tls import CertificateFiles, ServerTls, TlsError, not_after, server_tls
from tests.certificates import EXPIRED, GOOD, LOCKED_KEY, RENEWED, Pair


def files(folder: Path, certificate: str, key: str) -> CertificateFiles:
    (folder / "certificate.pem").write_text(certificate)
    (folder / "key.pem").write_text(key)
    return CertificateFiles(folder / "certificate.pem", folder / "key.pem")


@pytest.mark.parametrize("pair", [GOOD, RENEWED, EXPIRED])
def test_the_end_of_a_certificate_is_read_from_it(pair: Pair, tmp_path: Path) -> None:
    """In both forms of time; one that has ended is taken all the same."""
    found = server_tls(files(tmp_path, pair.certificate + GOOD.certificate, pair.key))
    assert found.not_after_unix_s == pair.not_after_unix_s
    assert found.context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("certificate", "key", "at", "message"),
    [
        (GOOD.certificate, RENEWED.key, "key", "is not the key of"),
        (GOOD.certificate, LOCKED_KEY, "key", "is not the key of"),
        (GOOD.certificate, "nonsense", "key", "is not the key of"),
        ("nonsense", GOOD.key, "certificate", "does not begin with a certificate in PEM"),
        (GOOD.key, GOOD.key, "certificate", "does not begin with a certificate in PEM"),
        (GOOD.certificate.replace("M", "!", 1), GOOD.key, "certificate", "does not begin with"),
        ("x" * 2**21, GOOD.key, "certificate", "is larger than"),
    ],
)
def test_what_cannot_be_used_is_named(certificate: str, key: str, at: str, message: str, tmp_path: Path) -> None:
    """The file, what is wrong with it, and never what it holds; nobody is asked for a password."""
    with pytest.raises(TlsError, match=message) as caught:
        server_tls(files(tmp_path, certificate, key))
    assert caught.value.key == at
    assert "BEGIN" not in caught.value.message


@pytest.mark.parametrize("missing", ["certificate", "key"])
def test_a_file_that_is_not_there(missing: str, tmp_path: Path) -> None:
    given_files = files(tmp_path, GOOD.certificate, GOOD.key)
    (tmp_path / f"{missing}.pem").unlink()
    with pytest.raises(TlsError, match="cannot be read: No such file or directory") as caught:
        server_tls(given_files)
    assert caught.value.key == missing


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_bytes_break_the_reading_of_a_certificate(noise: bytes, cut: int) -> None:
    """Rubbish and halves are values that cannot be used, nothing worse."""
    der = ssl.PEM_cert_to_DER_cert(GOOD.certificate)
    for candidate in (noise, der[:cut], der[:cut] + noise):
        try:
            assert isinstance(not_after(candidate), float)
        except ValueError:
            continue


@asynccontextmanager
async def listening(tls: ServerTls) -> AsyncIterator[int]:
    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0, ssl=tls.context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def says(port: int, trusted: Pair, name: str | None) -> bytes:
    """What a client that trusts this certificate alone gets back."""
    context = ssl.create_default_context(cadata=trusted.certificate)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.check_hostname = name is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name or "")
    writer.write(b"hello\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", None])
async def test_a_renewed_certificate_is_shown_from_then_on(name: str | None, tmp_path: Path) -> None:
    """Whether the client names the server or not, without listening anew."""
    tls = await asyncio.to_thread(server_tls, files(tmp_path, GOOD.certificate, GOOD.key))
    async with listening(tls) as port:
        assert await says(port, GOOD, name) == b"hello\n"
        tls.renew(await asyncio.to_thread(server_tls, files(tmp_path, RENEWED.certificate, RENEWED.key)))
        assert tls.not_after_unix_s == RENEWED.not_after_unix_s
        assert await says(port, RENEWED, name) == b"hello\n"
        with pytest.raises(ssl.SSLCertVerificationError):
            await says(port, GOOD, name)
