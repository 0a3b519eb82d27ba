"""Where a configuration came from: so that it can be read again, and so that a change of its files is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.load import load_config
from gateway.config.schema import Config

FILE_REFERENCE = "file:"

Signature = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """A file, if there is one, and the command line's word over it; the environment stands between them."""

    path: Path | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    check: Callable[[Config], None] = lambda _: None
    """What else it must be fit for; raises ConfigError."""

    def load(self) -> Config:
        """Read it.

        Raises:
            ConfigError: with every fault found.
        """
        config = load_config(self.path, self.overrides)
        self.check(config)
        return config

    def signature(self, config: Config) -> Signature:
        """Changes with any file that this configuration was read from: itself, secrets, certificates.

        Links are followed to their end: Kubernetes changes what it mounts by pointing a link somewhere else.
        """
        paths = [*([] if self.path is None else [self.path]), *map(Path, files_of(config))]
        return tuple(map(_marks, paths))


def files_of(config: Config) -> Iterator[str]:
    """Files whose content became part of a configuration."""
    secrets = [config.listen.admin_token, *(backend.api_key for backend in config.backends)]
    for secret in (*secrets, *(key for tenant in config.tenants for key in tenant.keys)):
        if secret is not None and secret.reference.startswith(FILE_REFERENCE):
            yield secret.reference.removeprefix(FILE_REFERENCE)
    for tls in (config.listen.tls, config.listen.admin_tls):
        if tls is not None:
            yield from (tls.certificate, tls.key)


def _marks(path: Path) -> tuple[int, ...]:
    """What another content would have otherwise; nothing for a file that is not there now."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
