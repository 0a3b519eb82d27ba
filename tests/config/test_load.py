"""Where the values come from, and which of them wins."""

from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, load_config
from gateway.config.load import FILE_BYTES_MAX


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "kvgate.yaml"
    file.write_text(text)
    return file


def faults(*args: object, **kwargs: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(*args, **kwargs)  # type: ignore[arg-type]
    return str(caught.value)


def test_without_anything_there_are_the_defaults(tmp_path: Path) -> None:
    assert load_config(environ={}) == Config() == load_config(written(tmp_path, "# nothing\n"), environ={})


def test_command_line_before_environment_before_file_before_default(tmp_path: Path) -> None:
    file = written(tmp_path, "listen: {port: 1, admin_port: 2, host: h}")
    environ = {"KVGATE_LISTEN__PORT": "3", "KVGATE_LISTEN__ADMIN_PORT": "4"}
    listen = load_config(file, {"listen": {"port": 5}}, environ).listen
    assert (listen.port, listen.admin_port, listen.host, listen.admin_host) == (5, 4, "h", "127.0.0.1")


def test_the_environment_reaches_every_kind_of_key() -> None:
    environ = {
        "KVGATE_RESPONSE_HEADERS": "false",
        "KVGATE_ADMISSION__QUEUE__REQUESTS_MAX": "7",
        "KVGATE_BACKENDS__0__URL": "http://h",
        "KVGATE_BACKENDS__0__GPUS": "[0, 1]",
        "KVGATE_BACKENDS__0__KV__CAPACITY_TOKENS": "null",
        "KVGATE_BACKENDS__0__MODELS": '{"Public/M": "own"}',
        "KVGATE_INPUT__BODY_BYTES_MAX": "2MiB",
    }
    config = load_config(environ=environ)
    assert not config.response_headers
    assert config.admission.queue.requests_max == 7
    assert config.backends[0].gpus == (0, 1)
    assert config.backends[0].kv.capacity_tokens is None
    assert config.backends[0].models == {"Public/M": "own"}
    assert config.input.body_bytes_max == 2 * 2**20


def test_the_environment_changes_single_items_of_a_list(tmp_path: Path) -> None:
    """Item 10 comes after item 2, whatever the alphabet says."""
    file = written(tmp_path, "backends: [{url: 'http://a'}, {url: 'http://b'}]")
    more = {f"KVGATE_BACKENDS__{i}__URL": f"http://h{i}" for i in range(1, 12)}
    names = [backend.url for backend in load_config(file, environ=more).backends]
    assert names == ["http://a", *(f"http://h{i}" for i in range(1, 12))]


def test_a_gap_in_a_list_is_a_fault() -> None:
    assert "backends.2: there is no such item; the next free one is 0" in faults(
        environ={"KVGATE_BACKENDS__2__URL": "http://h"}
    )


def test_lists_of_the_command_line_replace_those_of_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "backends: [{url: 'http://a'}, {url: 'http://b'}]")
    config = load_config(file, {"backends": [{"url": "http://c"}]}, {})
    assert [backend.url for backend in config.backends] == ["http://c"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("KVGATE_MOD", "observe", "mod: unknown key; did you mean 'mode'? (set by KVGATE_MOD)"),
        ("KVGATE_LISTEN__PRT", "1", "listen.prt: unknown key; did you mean 'port'? (set by KVGATE_LISTEN__PRT)"),
        ("KVGATE_LISTEN__PORT", "x", "(set by KVGATE_LISTEN__PORT)"),
        ("KVGATE_BACKENDS", "[", "KVGATE_BACKENDS: is neither JSON nor a YAML list or mapping"),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str, message: str) -> None:
    """A misspelt variable would otherwise be a setting that silently does nothing."""
    assert message in faults(environ={name: value})


@pytest.mark.parametrize(
    "name", ["KVGATE_SERVICE_HOST", "KVGATE_PORT", "KVGATE_PORT_8080_TCP_ADDR", "KVGATE_ADMIN_SERVICE_PORT_HTTP"]
)
def test_variables_that_kubernetes_sets_are_not_ours(name: str) -> None:
    """Every pod beside a Service called kvgate has them."""
    assert load_config(environ={name: "tcp://10.0.0.1:80", "OTHER": "x"}) == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mode: enforce\nmode: observe\n", "kvgate.yaml:2:1: the key mode stands here twice"),
        ("mode: [\n", "kvgate.yaml:2:1: "),
        ("- a\n", "must hold a mapping"),
        ("{[1]: 2}", "stands here twice"),
        ("a: !!python/object:os.system {}", "kvgate.yaml:1:4"),
        ("a: \x07", "is not YAML"),
        ("1: 2", "1: Keys should be strings"),
        ("#" * (FILE_BYTES_MAX + 1), "is larger than"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    assert message in faults(written(tmp_path, text), environ={})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert (
        faults(tmp_path / "none.yaml", environ={}) == f"{tmp_path}/none.yaml: cannot be read: No such file or directory"
    )
