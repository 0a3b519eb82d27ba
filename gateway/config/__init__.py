"""The configuration: one YAML file, the environment and the command line become one checked, immutable `Config`."""

from gateway.config.faults import ConfigError, Fault
from gateway.config.load import load_config
from gateway.config.schema import BackendConfig, Config, TenantConfig
from gateway.config.secret import KeyDigest, Secret

__all__ = ["BackendConfig", "Config", "ConfigError", "Fault", "KeyDigest", "Secret", "TenantConfig", "load_config"]
