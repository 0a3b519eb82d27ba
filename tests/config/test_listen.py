"""The admin port: open to this machine alone, or to whoever has its token."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, load_config
from gateway.config.changes import differences, without_restart
from gateway.config.load import admin_faults
from gateway.config.source import files_of

TOKEN = "0123456789abcdef0123456789abcdef"
EVERYWHERE = {"admin_host": "0.0.0.0"}


def config(listen: dict[str, object], **more: object) -> Config:
    return load_config(
        overrides={"listen": listen, **more}, environ={"TOKEN": TOKEN, "NEXT": TOKEN[::-1], "SHORT": "x" * 15}
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "kvgate.example"])
def test_an_admin_port_that_others_reach_needs_a_token(host: str) -> None:
    """The fault names the key, the address and the remedy; a token by environment alone is enough."""
    with pytest.raises(ConfigError) as caught:
        config({"admin_host": host})
    (fault,) = caught.value.faults
    assert fault.path == "listen.admin_token"
    assert host in fault.message
    assert "env:NAME or file:PATH" in fault.message
    environ = {"KVGATE_LISTEN__ADMIN_HOST": host, "KVGATE_LISTEN__ADMIN_TOKEN": "env:T", "T": TOKEN}
    assert load_config(environ=environ).listen.admin_host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_one_that_only_this_machine_reaches_needs_none(host: str) -> None:
    assert config({"admin_host": host}).listen.admin_token is None


def test_a_passed_socket_is_judged_by_where_it_listens() -> None:
    """Whatever the configuration says of addresses."""
    assert list(admin_faults(config({}), "127.0.0.1")) == []
    assert [fault.path for fault in admin_faults(config({}), "10.0.0.1")] == ["listen.admin_token"]
    assert list(admin_faults(config({"admin_token": "env:TOKEN"}), "10.0.0.1")) == []


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("env:SHORT", "fewer than 16 characters"),
        ("env:NONE", "is not set"),
        (TOKEN, "is never written here"),
        (5, "must be a reference"),
    ],
)
def test_a_token_is_given_by_reference_and_is_long(reference: object, message: str) -> None:
    """What was given in its place is not repeated."""
    with pytest.raises(ConfigError, match=message) as caught:
        config({**EVERYWHERE, "admin_token": reference})
    assert {fault.path for fault in caught.value.faults} == {"listen.admin_token"}
    assert TOKEN not in str(caught.value)
    assert "xxx" not in str(caught.value)


def test_only_its_digest_is_kept() -> None:
    """No view of the configuration gives it away."""
    loaded = config({**EVERYWHERE, "admin_token": "env:TOKEN"})
    token = loaded.listen.admin_token
    assert token is not None
    assert token.sha256 == hashlib.sha256(TOKEN.encode()).digest()
    with pytest.raises(TypeError):
        token.reveal()
    for shown in (repr(loaded), str(loaded), json.dumps(loaded.shown()), repr(loaded.__dict__)):
        assert TOKEN not in shown
    assert loaded.shown()["listen"]["admin_token"] == "***"  # type: ignore[index]


def test_no_caller_of_the_api_has_it() -> None:
    with pytest.raises(ConfigError, match=r"tenants\.0\.keys\.0: is the same key as listen\.admin_token"):
        config({"admin_token": "env:TOKEN"}, tenants=[{"name": "t", "keys": ["env:TOKEN"]}])


def test_a_reload_changes_it_but_neither_adds_nor_removes_it() -> None:
    """Else a file that was saved too early would open the port."""
    none, one, other = (config({"admin_token": name} if name else {}) for name in (None, "env:TOKEN", "env:NEXT"))
    assert list(differences(one, other)) == ["listen.admin_token"]
    assert without_restart(one, other).listen == other.listen
    assert without_restart(one, none).listen == one.listen
    assert without_restart(none, one).listen == none.listen


def test_its_file_is_watched(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    assert list(files_of(config({"admin_token": f"file:{path}"}))) == [str(path)]


def test_certificates_are_files(tmp_path: Path) -> None:
    tls = config({"tls": {"certificate": str(tmp_path / "c"), "key": str(tmp_path / "k")}}).listen.tls
    assert tls is not None
    assert (tls.files().certificate, tls.files().key) == (tmp_path / "c", tmp_path / "k")
