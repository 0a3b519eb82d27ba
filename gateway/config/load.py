"""File, environment and command line merged and checked. Precedence: command line, environment, file, default."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

from gateway.admin.loopback import is_loopback
from gateway.config.faults import ConfigError, Fault, faults_of
from gateway.config.schema import Config
from gateway.config.secret import ENVIRON

ENV_PREFIX = "KVGATE_"
FILE_BYTES_MAX = 2**20
SERVICE_LINK = re.compile(
    r"KVGATE_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""Variables that Kubernetes sets in every pod for a Service named kvgate or kvgate-…: not ours."""


def load_config(
    path: Path | str | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The checked configuration.

    Args:
        path: a YAML file; None: no file.
        overrides: what the command line says, nested like the file. Its lists take the place of other lists.
        environ: default: the environment of the process.

    Raises:
        ConfigError: with every fault found.
    """
    environ = os.environ if environ is None else environ
    tree: object = {} if path is None else _read(Path(path))
    origins: dict[str, str] = {}
    for keys, name in _variables(environ):
        tree = _merge(tree, _nested(keys, _value(environ[name], name)), "")
        origins[".".join(keys)] = name
    tree = _merge(tree, dict(overrides or {}), "")
    try:
        config = Config.model_validate(tree, context={ENVIRON: environ})
    except ValidationError as error:
        # Not chained: pydantic's error holds the input, and with it perhaps a key written where a reference belongs.
        faults = faults_of(error, origins)
    else:
        faults = list(_cross_faults(config))
        if not faults:
            return config
    raise ConfigError(*faults) from None


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is a fault, not a silent choice of the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:  # noqa: FBT001, FBT002  # PyYAML's own signature
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                problem = f"the key {key!s} stands here twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[object, object]:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(Fault(str(path), f"cannot be read: {error.strerror}")) from None
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(Fault(str(path), f"is larger than {FILE_BYTES_MAX} bytes"))
    try:
        tree = yaml.load(content, _Loader)  # noqa: S506  # is a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(Fault(where, error.problem or "is not YAML")) from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise ConfigError(Fault(str(path), "is not YAML in UTF-8")) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(Fault(str(path), "must hold a mapping of keys to values"))
    return tree


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[list[str], str]]:
    """The KVGATE_* variables and the keys they name: outer before inner ones, item 2 of a list before item 10."""
    for name in sorted(environ, key=lambda name: [(len(part), part) for part in name.split("__")]):
        keys = name.removeprefix(ENV_PREFIX).lower().split("__")
        if name.startswith(ENV_PREFIX) and (keys[0] in Config.model_fields or not SERVICE_LINK.fullmatch(name)):
            yield keys, name


def _nested(keys: list[str], value: object) -> object:
    for key in reversed(keys):
        value = {key: value}
    return value


def _value(text: str, name: str) -> object:
    """A list or mapping is written as JSON or YAML flow; anything else is a plain value, which the schema reads."""
    if text == "null":
        return None
    if not text.startswith(("[", "{")):
        return text
    try:
        value: object = yaml.load(text, _Loader)  # noqa: S506  # is a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError):
        raise ConfigError(Fault(name, "is neither JSON nor a YAML list or mapping")) from None
    return value


def _merge(below: object, above: object, path: str) -> object:
    """`above` laid over `below`: mappings key by key, numbered items into lists, everything else replaced."""
    if not isinstance(above, dict):
        return above
    if isinstance(below, list) or (below is None and above and all(_is_index(key) for key in above)):
        return _merge_items(below or [], above, path)
    merged = dict(below) if isinstance(below, dict) else {}
    for key, value in above.items():
        merged[key] = _merge(merged.get(key), value, f"{path}{key}.")
    return merged


def _merge_items(below: list[object], above: dict[str, object], path: str) -> list[object]:
    merged = list(below)
    for key in sorted(above, key=lambda key: (len(key), key)):
        index = int(key) if _is_index(key) else len(merged) + 1
        if index > len(merged):
            raise ConfigError(Fault(f"{path}{key}", f"there is no such item; the next free one is {len(merged)}"))
        item = merged[index] if index < len(merged) else None
        merged[index : index + 1] = [_merge(item, above[key], f"{path}{key}.")]
    return merged


def _is_index(key: object) -> bool:
    return isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) <= 4


def admin_faults(config: Config, address: str) -> Iterator[Fault]:
    """What is wrong with an admin port at this address: whoever reaches it must be asked for a token."""
    if config.listen.admin_token is None and not is_loopback(address):
        remedy = "set it to env:NAME or file:PATH, or keep listen.admin_host 127.0.0.1"
        yield Fault("listen.admin_token", f"is required where others reach the admin port, at {address}: {remedy}")


def _listen_faults(config: Config) -> Iterator[Fault]:
    listen = config.listen
    if listen.port and listen.port == listen.admin_port:
        yield Fault("listen.admin_port", f"must differ from listen.port, {listen.port}")
    yield from admin_faults(config, listen.admin_host)


def _cross_faults(config: Config) -> Iterator[Fault]:
    """What no single key can show."""
    for section in ("backends", "tenants"):
        first: dict[str, int] = {}
        for index, item in enumerate(getattr(config, section)):
            if first.setdefault(item.name, index) != index:
                yield Fault(f"{section}.{index}.name", f"'{item.name}' is the name of {section}.{first[item.name]} too")
    token = config.listen.admin_token
    holders = {token.sha256: "listen.admin_token"} if token is not None else {}
    for t, tenant in enumerate(config.tenants):
        for k, key in enumerate(tenant.keys):
            path = f"tenants.{t}.keys.{k}"
            if holders.setdefault(key.sha256, path) != path:
                yield Fault(path, f"is the same key as {holders[key.sha256]}")
    yield from _listen_faults(config)
    for model, file in config.tokenizers.items():
        if not Path(file).exists():
            yield Fault(f"tokenizers.{model}", f"there is no file or folder {file}")
