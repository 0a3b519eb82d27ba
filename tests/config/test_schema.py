"""The configuration's keys, and what the rooms are given."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from gateway.admission.limits import AdmissionLimits
from gateway.api.parse import DEFAULT_POLICY, ParsePolicy
from gateway.backends.settings import BackendSettings
from gateway.config import Config, load_config
from gateway.config.faults import ConfigError, sections_in
from gateway.domain import BackendLimits, Priority, TenantLimits


def sections(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield section
    for field in section.model_fields.values():
        for inner in sections_in(field.annotation):
            yield from sections(inner)


def test_every_key_is_described() -> None:
    """The example file and the schema are made of the descriptions."""
    for section in sections(Config):
        for name, field in section.model_fields.items():
            is_section = any(True for _ in sections_in(field.annotation))
            assert field.description or is_section, f"{section.__name__}.{name}"
        assert section.__doc__


def test_defaults_are_those_of_the_rooms() -> None:
    """Each default is written once, in the room that uses it."""
    config = load_config(overrides={"backends": [{"url": "http://h:1"}]}, environ={})
    assert config.admission_limits() == AdmissionLimits()
    assert config.backend_settings() == (BackendSettings(name="h-1", url="http://h:1"),)
    assert config.tenant_keys() == ()


def test_admission_gets_what_the_file_says() -> None:
    overrides = {
        "mode": "observe",
        "admission": {"risk": 0.1, "never_fits": "clamp", "queue": {"requests_max": 3, "wait_max_s": 4}},
    }
    assert load_config(overrides=overrides, environ={}).admission_limits() == AdmissionLimits(
        risk=0.1, queue_requests_max=3, queue_wait_max_s=4, clamp=True, observe=True
    )


def test_a_backend_gets_what_the_file_says() -> None:
    backend = {
        "name": "a",
        "kind": "vllm",
        "url": "https://h/api/",
        "models": {"m": "org/M"},
        "kv": {"capacity_tokens": 1024, "block_size": 32, "model_config": "dir/config.json"},
        "api_key": "env:K",
        "spill_only": True,
        "limits": {"requests_per_minute": 6, "tokens_per_minute": 7},
        "timeouts": {"connect_s": 1, "head_s": 2, "idle_s": 3},
    }
    (got,) = load_config(overrides={"backends": [backend]}, environ={"K": "sk-9"}).backend_settings()
    assert (got.name, got.kind, got.url, dict(got.models)) == ("a", "vllm", "https://h/api", {"m": "org/M"})
    assert (got.api_key, got.spill_only) == ("sk-9", True)
    assert (got.kv.capacity_tokens, got.kv.block_size, got.kv.model_config) == (1024, 32, "dir/config.json")
    assert got.limits == BackendLimits(6, 7)
    assert (got.timeouts.connect_s, got.timeouts.head_s, got.timeouts.idle_s) == (1, 2, 3)


def test_a_tenant_gets_what_the_file_says() -> None:
    """Its keys arrive as digests."""
    tenant = {"name": "t", "keys": ["env:K"], "priority": "batch", "kv_share": 0.25, "requests_max": 3}
    tenant |= {"requests_per_minute": 60, "tokens_per_minute": 9000}
    (got,) = load_config(overrides={"tenants": [tenant]}, environ={"K": "sk-8"}).tenant_keys()
    assert (got.tenant.name, got.tenant.priority, got.tenant.kv_share) == ("t", Priority.BATCH, 0.25)
    assert got.tenant.limits == TenantLimits(requests_max=3, requests_per_minute=60, tokens_per_minute=9000)
    assert got.hashes == (hashlib.sha256(b"sk-8").digest(),)


def test_the_parser_gets_what_the_file_says() -> None:
    """All of `input:` but the body's size, which is the server's."""
    assert load_config(environ={}).parse_policy() == DEFAULT_POLICY
    overrides = {
        "input": {"unknown_fields": "drop", "n_max": 2, "extra_fields": ["x"], "allow_remote_media": ["h.example"]},
    }
    assert load_config(overrides=overrides, environ={}).parse_policy() == ParsePolicy(
        "drop", frozenset({"x"}), 2, frozenset({"h.example"})
    )


def test_secrets_do_not_show() -> None:
    """Neither printing, dumping nor the schema gives a key away, and no default is one."""
    overrides = {
        "backends": [{"url": "http://h", "api_key": "env:A"}],
        "tenants": [{"name": "t", "keys": ["env:B"]}],
    }
    config = load_config(overrides=overrides, environ={"A": "sk-secret-a", "B": "sk-secret-b"})
    seen = f"{config} {config!r} {config.model_dump()} {config.model_dump_json()} {config.shown()}"
    assert "sk-secret" not in seen
    assert "sk-secret" not in repr(config.backend_settings()) + repr(config.tenant_keys())
    assert "'api_key': '***'" in str(config.shown())


def test_the_fingerprint_follows_the_settings_but_not_the_secrets() -> None:
    overrides = {"backends": [{"url": "http://h", "api_key": "env:A"}]}
    first = load_config(overrides=overrides, environ={"A": "sk-1"})
    assert first.fingerprint() == load_config(overrides=overrides, environ={"A": "sk-2"}).fingerprint()
    assert first.fingerprint() != load_config(environ={}).fingerprint()


def test_the_journal_is_bounded_whatever_the_file_says() -> None:
    """None by default; a size may be written as people do."""
    assert load_config(environ={}).journal.path is None
    journal = load_config(
        overrides={"journal": {"path": "j.jsonl", "bytes_max": "2MiB", "keep": 0}}, environ={}
    ).journal
    assert (journal.path, journal.bytes_max, journal.keep) == ("j.jsonl", 2 * 2**20, 0)
    for bad in ({"path": ""}, {"bytes_max": "1KiB"}, {"keep": -1}, {"keep": 10_000}, {"kept": 1}):
        with pytest.raises(ConfigError):
            load_config(overrides={"journal": bad}, environ={})


def test_another_process_of_this_gateway_has_the_same_configuration(tmp_path: Path) -> None:
    """It is given all keys, but secrets by reference: what they are is not in what is sent."""
    key = tmp_path / "key"
    key.write_text("sk-of-the-engine-in-a-file")
    environ = {
        "TENANT": "sk-of-a-tenant-0123456789",
        "TOKEN": "0123456789abcdef0123456789abcdef",
        "STORE": "store-word",
    }
    tree = {
        "listen": {"host": "::1", "port": 0, "admin_token": "env:TOKEN"},
        "workers": 3,
        "backends": [
            {"url": "http://a:8000", "api_key": f"file:{key}", "models": {"m": "n"}, "kv": {"capacity_tokens": 64}},
            {"name": "b", "url": "https://b", "kind": "openai", "spill_only": True, "limits": {"tokens_per_minute": 9}},
        ],
        "admission": {"never_fits": "clamp", "risk": 0.02, "slo": [{"model": "m", "ttft_s": 2.0}]},
        "tenants": [{"name": "t", "keys": ["env:TENANT"], "kv_share": 0.25}],
        "input": {"body_bytes_max": "3MiB"},
        "ledger": {"url": "redis://store:6379", "password": "env:STORE"},
    }
    config = load_config(overrides=tree, environ=environ)
    sent = config.referring()
    received = Config.referred(sent, environ)
    assert received == config
    assert received.backend_settings() == config.backend_settings()
    assert received.tenant_keys() == config.tenant_keys()
    assert received.fingerprint() == config.fingerprint()
    assert all(secret.encode() not in sent for secret in (key.read_text(), *environ.values()))
    with pytest.raises(ValueError, match="TENANT is not set") as caught:
        Config.referred(sent, {name: value for name, value in environ.items() if name != "TENANT"})
    assert environ["TOKEN"] not in str(caught.value)


def test_every_default_reaches_another_process() -> None:
    assert Config.referred(Config().referring(), {}) == Config()
