"""What differs between two configurations, and what of it waits for a restart."""

from pathlib import Path

from gateway.config import Config, load_config
from gateway.config.changes import RESTART, differences, without_restart

LIVE = {
    "mode",
    "backends",
    "admission",
    "tenants",
    "input",
    "telemetry",
    "drain_max_s",
    "response_headers",
    "log",
    "watch",
}
"""Keys that a running gateway takes up. A new key belongs here, or into `RESTART`, or the gateway lies about it."""


def config(**keys: object) -> Config:
    return load_config(overrides=keys, environ={"A": "one", "B": "two", "C": "one"})


def test_every_key_is_either_live_or_waits_for_a_restart() -> None:
    assert LIVE | {path.partition(".")[0] for path in RESTART} == set(Config.model_fields)


def test_differences_are_told_by_path_and_name() -> None:
    """Items of lists by their names; what only moved in its list has not changed."""
    before = config(
        admission={"risk": 0.02},
        backends=[{"name": "a", "url": "http://h:1"}, {"name": "b", "url": "http://h:2"}],
        input={"extra_fields": ["x"]},
    )
    after = config(
        backends=[{"name": "b", "url": "http://h:2"}, {"name": "c", "url": "http://h:1"}],
        input={"extra_fields": []},
        listen={"tls": {"certificate": "c", "key": "k"}},
    )
    assert list(differences(before, before)) == []
    assert list(differences(before, after)) == [
        "listen.tls",
        "backends.a",
        "backends.c",
        "admission.risk",
        "input.extra_fields",
    ]


def test_a_secret_has_changed_if_its_value_has() -> None:
    """Not if it only comes from somewhere else."""

    def with_key(name: str) -> Config:
        return config(
            backends=[{"name": "a", "url": "http://h:1", "api_key": f"env:{name}"}],
            tenants=[{"name": "t", "keys": [f"env:{name}"]}],
        )

    assert list(differences(with_key("A"), with_key("C"))) == []
    assert list(differences(with_key("A"), with_key("B"))) == ["backends.a", "tenants.t"]


def test_what_waits_for_a_restart_stays_as_it_was(tmp_path: Path) -> None:
    """Certificates may change, but not come or go."""
    (tmp_path / "tokenizer.json").write_text("{}")
    before = config(listen={"tls": {"certificate": "c", "key": "k"}})
    after = config(
        mode="observe",
        listen={"port": 1, "tls": {"certificate": "d", "key": "k"}, "admin_tls": {"certificate": "c", "key": "k"}},
        state={"path": "s"},
        journal={"keep": 9},
        tokenizers={"m": str(tmp_path)},
        log={"level": "debug", "format": "json"},
    )
    taken = without_restart(before, after)
    assert list(differences(before, taken)) == ["listen.tls.certificate", "mode", "log.level"]
    left = ["listen.port", "listen.admin_tls", "state.path", "tokenizers", "log.format", "journal.keep"]
    assert list(differences(taken, after)) == left
