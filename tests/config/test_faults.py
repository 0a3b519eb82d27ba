"""Every fault of a configuration is told with its path, its remedy, and nothing secret."""

import traceback
from pathlib import Path

import pytest

from gateway.config import ConfigError, load_config
from gateway.config.faults import Fault, keys_at

BACKEND = "backends: [{url: 'http://h', %s}]"
TENANT = "tenants: [{name: t, keys: ['env:K'], %s}]"
ENVIRON = {"K": "sk-known"}
TABLE = [
    ("mod: enforce", "mod", "unknown key; did you mean 'mode'?"),
    ("zzz: 1", "zzz", "unknown key; known here: listen, mode,"),
    ("mode: enforc", "mode", "must be 'enforce' or 'observe'"),
    ("listen: {prt: 1}", "listen.prt", "unknown key; did you mean 'port'?"),
    ("listen: {port: 65536}", "listen.port", "less than or equal to 65535, not 65536"),
    ("listen: {port: eighty}", "listen.port", "must be a valid integer"),
    ("listen: {port: yes}", "listen.port", "must be a number"),
    ("listen: {host: 'a b'}", "listen.host", "must match pattern"),
    ("listen: {port: 81, admin_port: 81}", "listen.admin_port", "must differ from listen.port, 81"),
    ("listen: 8080", "listen", "must be a mapping of keys to values"),
    ("backends: [{kin: vllm, url: 'http://h'}]", "backends.0.kin", "unknown key; did you mean 'kind'?"),
    ("backends: [{name: a}]", "backends.0.url", "this key is required"),
    ("backends: {url: x}", "backends", "must be a valid tuple"),
    (BACKEND % "name: Upper", "backends.0.name", "a-z, 0-9 and hyphen"),
    (BACKEND % "name: -a", "backends.0.name", "a-z, 0-9 and hyphen"),
    (BACKEND % f"name: {'a' * 64}", "backends.0.name", "1 to 63 characters"),
    (BACKEND % "kind: ollama", "backends.0.kind", "'vllm'"),
    (BACKEND % "api_key: sk-literal", "backends.0.api_key", "never written here: use env:NAME or file:PATH"),
    (BACKEND % "api_key: 5", "backends.0.api_key", "a reference to a secret"),
    (BACKEND % "api_key: env:NOPE", "backends.0.api_key", "environment variable NOPE is not set"),
    (BACKEND % "api_key: file:/nope", "backends.0.api_key", "file /nope cannot be read"),
    (BACKEND % "gpus: [-1]", "backends.0.gpus.0", "greater than or equal to 0, not -1"),
    (BACKEND % "models: {'a b': c}", "backends.0.models", "'a b' is no model name"),
    (BACKEND % "kv: {block_size: 0}", "backends.0.kv.block_size", "greater than or equal to 1"),
    (BACKEND % "kv: {model_confg: a}", "backends.0.kv.model_confg", "did you mean 'model_config'?"),
    (BACKEND % "limits: {requests_per_minute: -1}", "backends.0.limits.requests_per_minute", "equal to 0"),
    (BACKEND % "timeouts: {head_s: .inf}", "backends.0.timeouts.head_s", "equal to 86400, not inf"),
    ("backends: [{url: 'http://h'}, {url: 'http://h'}]", "backends.1.name", "'h' is the name of backends.0 too"),
    ("backends: [{url: 'ftp://h'}]", "backends.0.url", "must begin with http:// or https://"),
    ("backends: [{url: 'http://u:sk-literal@h'}]", "backends.0.url", "must not hold a user or password"),
    ("backends: [{url: 'http://h/?k=sk-literal'}]", "backends.0.url", "query"),
    ("backends: [{url: 'http://h:99999'}]", "backends.0.url", "port must be from 1 to 65535"),
    ("backends: [{url: 'http://'}]", "backends.0.url", "must name a host"),
    ('backends: [{url: "http://h\\r\\nx"}]', "backends.0.url", "plain ASCII"),
    ("admission: {risk: 0}", "admission.risk", "greater than 0, not 0"),
    ("admission: {risk: .nan}", "admission.risk", "must be"),
    ("admission: {queue: {requests_max: -1}}", "admission.queue.requests_max", "equal to 0, not -1"),
    ("admission: {never_fits: maybe}", "admission.never_fits", "'reject' or 'clamp'"),
    (TENANT % "kv_share: 1.5", "tenants.0.kv_share", "less than or equal to 1, not 1.5"),
    (TENANT % "priority: urgent", "tenants.0.priority", "'interactive', 'standard' or 'batch'"),
    ("tenants: [{name: t, keys: []}]", "tenants.0.keys", "at least 1 item"),
    ("tenants: [{name: t, keys: [sk-literal]}]", "tenants.0.keys.0", "never written here"),
    ("tenants: [{name: a, keys: ['env:K']}, {name: b, keys: ['env:K']}]", "tenants.1.keys.0", "as tenants.0.keys.0"),
    ("input: {body_bytes_max: 9TiB}", "input.body_bytes_max", "less than or equal to"),
    ("input: {unknown_fields: keep}", "input.unknown_fields", "'reject', 'drop' or 'pass'"),
    ("tokenizers: {m: /nope.json}", "tokenizers.m", "there is no file or folder /nope.json"),
    ("log: {level: loud}", "log.level", "'debug', 'info', 'warning' or 'error'"),
    ("drain_max_s: 0", "drain_max_s", "greater than 0"),
    ("telemetry: {interval_s: 0.001}", "telemetry.interval_s", "greater than or equal to 0.05"),
]


@pytest.mark.parametrize(("text", "path", "message"), TABLE, ids=[f"{path}:{text}"[:60] for text, path, _ in TABLE])
def test_a_fault_names_its_path_and_its_remedy(tmp_path: Path, text: str, path: str, message: str) -> None:
    """One fault in, one line out; and no traceback holds what might be a key."""
    file = tmp_path / "kvgate.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ=ENVIRON)
    (fault,) = caught.value.faults
    assert fault.path == path
    assert message in fault.message
    printed = "".join(traceback.format_exception(caught.value))
    assert "sk-literal" not in printed
    assert "sk-known" not in printed


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "kvgate.yaml"
    file.write_text("mod: x\nadmission: {risk: 2}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ={})
    assert [fault.path for fault in caught.value.faults] == ["admission.risk", "mod"]
    assert str(caught.value) == "\n".join(map(str, caught.value.faults))


def test_keys_are_known_where_a_section_stands() -> None:
    assert keys_at(["backends", 3, "kv"]) == ["capacity_tokens", "block_size", "model_config"]
    assert keys_at(["mode", "x"]) == []
    assert str(Fault("a.b", "c")) == "a.b: c"
