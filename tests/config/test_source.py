"""Where a configuration comes from, and how a change of its files is seen."""

from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, Fault, load_config
from gateway.config.source import ConfigSource, files_of
from tests.certificates import GOOD


def test_it_is_read_each_time(tmp_path: Path) -> None:
    """The command line's word stays above the file's."""
    file = tmp_path / "kvgate.yaml"
    source = ConfigSource(file, {"listen": {"port": 1}})
    for seconds in (5, 6):
        file.write_text(f"drain_max_s: {seconds}\nlisten: {{port: 2}}\n")
        assert (source.load().drain_max_s, source.load().listen.port) == (seconds, 1)


def test_what_runs_may_want_more_of_it() -> None:
    def check(config: Config) -> None:
        raise ConfigError(Fault("mode", f"{config.mode} will not do"))

    with pytest.raises(ConfigError, match="mode: enforce will not do"):
        ConfigSource(check=check).load()


def test_every_file_that_became_part_of_it_is_known(tmp_path: Path) -> None:
    """Keys of backends and tenants, certificates; not what is looked up by name in the environment."""
    secret = tmp_path / "secret"
    secret.write_text("sk")
    overrides = {
        "backends": [{"url": "http://h:1", "api_key": f"file:{secret}"}, {"url": "http://h:2", "api_key": "env:KEY"}],
        "tenants": [{"name": "t", "keys": ["env:OTHER", f"file:{secret}"]}],
        "listen": {"admin_tls": GOOD.write(tmp_path)},
    }
    config = load_config(overrides=overrides, environ={"KEY": "a", "OTHER": "b"})
    named = [Path(path).name for path in files_of(config)]
    assert named == ["secret", "secret", "certificate.pem", "key.pem"]


def test_a_change_of_any_file_is_seen_even_behind_links(tmp_path: Path) -> None:
    """As Kubernetes does it: the file is a link to one in a folder that is a link, and that is pointed elsewhere."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "kvgate.yaml").write_text("mode: observe\n")
    data, file = tmp_path / "..data", tmp_path / "kvgate.yaml"
    data.symlink_to("1")
    file.symlink_to("..data/kvgate.yaml")
    source = ConfigSource(file)
    config = source.load()
    before = source.signature(config)
    assert source.signature(config) == before
    swapped = tmp_path / "..tmp"
    swapped.symlink_to("2")
    swapped.rename(data)
    after = source.signature(config)
    assert after != before
    file.unlink()
    assert source.signature(config) not in (before, after)
