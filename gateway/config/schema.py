"""Every key of the configuration with its meaning, default and bounds; and what the rooms get from them."""

from __future__ import annotations

import hashlib
import json
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

from gateway.admission.limits import AdmissionLimits
from gateway.api.auth import TenantKeys
from gateway.api.parse import ParsePolicy
from gateway.backends.settings import BackendSettings, KvSettings
from gateway.backends.upstream import UpstreamTimeouts
from gateway.config.secret import KeyDigest, Secret
from gateway.config.values import Host, Models, Name, Port, Positive, Real, Seconds, Url, Whole, backend_name
from gateway.domain import BackendLimits, Priority
from gateway.request import Tenant

_ADMISSION = AdmissionLimits()
_UPSTREAM = UpstreamTimeouts()


class Section(BaseModel):
    """What all parts share: unknown keys are refused, values never change, errors do not quote their input."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )


class Listen(Section):
    """Where the gateway listens."""

    host: Host = "127.0.0.1"
    """Address of the API."""
    port: Port = 8080
    """Port of the API; 0 takes any free one."""
    admin_host: Host = "127.0.0.1"
    """Address of metrics, state and drain. Keep it private: it has no key."""
    admin_port: Port = 8081
    """Port of metrics, state and drain; 0 takes any free one."""


class Kv(Section):
    """The KV cache of a backend, where it should not be read from the engine."""

    capacity_tokens: Positive | None = None
    """Size of the pool in tokens; null: read from the engine."""
    block_size: Annotated[Whole, Field(ge=1, le=65_536)] | None = None
    """Tokens per block; null: read from the engine."""
    model_config_path: Annotated[str | None, Field(alias="model_config", min_length=1)] = None
    """Path of the model's config.json or a name in the catalogue, for layers with windows or states, which no
    engine tells of; null: all layers keep all tokens."""


class Limits(Section):
    """What a hosted provider allows; 0: no limit known."""

    requests_per_minute: Annotated[Whole, Field(ge=0, le=2**53)] = 0
    """Requests per minute."""
    tokens_per_minute: Annotated[Whole, Field(ge=0, le=2**53)] = 0
    """Prompt and output tokens per minute."""


class Timeouts(Section):
    """How long a backend may be silent."""

    connect_s: Seconds = _UPSTREAM.connect_s
    """Until a connection stands."""
    head_s: Seconds = _UPSTREAM.head_s
    """From the request to the first byte of the answer: the whole generation if it is not streamed."""
    idle_s: Seconds = _UPSTREAM.idle_s
    """Between two pieces of one answer."""


class BackendConfig(Section):
    """An engine or a hosted provider."""

    name: Name
    """Its name in metrics, logs and headers: a-z, 0-9 and hyphens; default: made from host and port."""
    kind: Literal["vllm", "sglang", "llamacpp", "openai", "auto"] = "auto"
    """vllm, sglang, llamacpp, openai (any hosted provider), or auto: found out by asking it."""
    url: Url
    """Base URL without /v1."""
    models: Models = Field(default_factory=dict)
    """Public name: the engine's name; empty: as the engine lists them."""
    kv: Kv = Kv()
    api_key: Secret | None = None
    """Key sent to it: env:NAME or file:PATH, never the key itself."""
    spill_only: bool = False
    """Used only when the other backends are predicted to run out of room."""
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    gpus: tuple[Annotated[Whole, Field(ge=0, le=1023)], ...] = ()
    """NVML indices of the GPUs of this machine that it runs on; empty: not on this machine."""

    @model_validator(mode="before")
    @classmethod
    def _name_from_url(cls, given: object) -> object:
        if isinstance(given, dict) and "name" not in given:
            return {**given, "name": backend_name(str(given.get("url", ""))) or "unnamed"}
        return given

    def settings(self) -> BackendSettings:
        """The same in the words of the backends' room, its key revealed."""
        return BackendSettings(
            name=self.name,
            url=self.url,
            kind=self.kind,
            models=MappingProxyType(self.models),
            api_key=self.api_key.reveal() if self.api_key else None,
            kv=KvSettings(self.kv.capacity_tokens, self.kv.block_size, self.kv.model_config_path),
            spill_only=self.spill_only,
            limits=BackendLimits(self.limits.requests_per_minute, self.limits.tokens_per_minute),
            timeouts=UpstreamTimeouts(self.timeouts.connect_s, self.timeouts.head_s, self.timeouts.idle_s),
        )


class Queue(Section):
    """The queue of requests for which there is no room yet."""

    requests_max: Annotated[Whole, Field(ge=0, le=100_000)] = _ADMISSION.queue_requests_max
    """How many may wait; 0: none, refuse at once."""
    wait_max_s: Annotated[Real, Field(ge=0, le=3600, allow_inf_nan=False)] = _ADMISSION.queue_wait_max_s
    """How long one may wait; a client that names a shorter read timeout waits less."""


class AdmissionConfig(Section):
    """How much is let in."""

    risk: Annotated[Real, Field(gt=0, lt=0.5, allow_inf_nan=False)] = _ADMISSION.risk
    """Accepted chance that admitted work outgrows the pool."""
    queue: Queue = Queue()
    never_fits: Literal["reject", "clamp"] = "reject"
    """What happens to a request that could never fit: reject it, or clamp its max_tokens until it does."""


class TenantConfig(Section):
    """One group of callers. Without any tenant, no key is asked for."""

    name: Name
    """Its name in logs."""
    keys: Annotated[tuple[KeyDigest, ...], Field(min_length=1, max_length=100)]
    """Keys it may present: env:NAME or file:PATH each."""
    priority: Literal["interactive", "standard", "batch"] = "interactive"
    """The best class its requests may ask for, and their class if they ask for none."""
    kv_share: Annotated[Real, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """Part of a backend's KV cache it may hold while others want room."""

    def settings(self) -> TenantKeys:
        """The same in the words of the API's room."""
        tenant = Tenant(self.name, Priority[self.priority.upper()], self.kv_share)
        return TenantKeys(tenant, tuple(key.sha256 for key in self.keys))


class Input(Section):
    """What requests may bring."""

    body_bytes_max: Annotated[ByteSize, Field(ge=1024, le=256 * 2**20)] = ByteSize(4 * 2**20)
    """Largest request body, in bytes or as 4MiB."""
    n_max: Annotated[Whole, Field(ge=1, le=128)] = 8
    """Largest n (answers per prompt)."""
    unknown_fields: Literal["reject", "drop", "pass"] = "reject"
    """What happens to fields that the API does not define: answer 400, drop them, or pass them to the engine."""
    extra_fields: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = ()
    """Further fields that are passed to the engine, unsafe ones included."""
    allow_remote_media: tuple[Annotated[str, Field(pattern=r"^[a-z0-9.-]{1,253}$")], ...] = ()
    """Hosts from which an engine may load images, audio and video; data: URLs are always possible."""


class TelemetryConfig(Section):
    """How the backends are watched."""

    interval_s: Annotated[Real, Field(ge=0.05, le=60, allow_inf_nan=False)] = 0.5
    """Time between two looks at a backend."""


class Log(Section):
    """What is logged. Prompts and answers never are."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is written."""
    format: Literal["auto", "json", "console"] = "auto"
    """json, console (for people), or auto: console on a terminal, else json."""


class Config(Section):
    """Configuration of KVGate. Every key can also be set as KVGATE_<KEY>, nested keys joined by two underscores."""

    listen: Listen = Listen()
    mode: Literal["enforce", "observe"] = "enforce"
    """enforce, or observe: decide and show, but refuse nothing."""
    backends: Annotated[tuple[BackendConfig, ...], Field(max_length=1000)] = ()
    """The engines and providers that requests are sent to."""
    admission: AdmissionConfig = AdmissionConfig()
    tenants: Annotated[tuple[TenantConfig, ...], Field(max_length=1000)] = ()
    """Groups of callers and their keys; empty: no key is asked for."""
    input: Input = Input()
    telemetry: TelemetryConfig = TelemetryConfig()
    tokenizers: dict[str, str] = Field(default_factory=dict)
    """Public model name: path of its tokenizer.json or of the folder with it, to count prompts exactly (needs
    `kvgate[tokenizer]`); else a ratio is learned."""
    drain_max_s: Seconds = 300.0
    """How long running requests may go on after SIGTERM."""
    response_headers: bool = True
    """Whether answers carry x-kvgate-* headers that explain the decision."""
    log: Log = Log()

    def admission_limits(self) -> AdmissionLimits:
        """Admission's own settings."""
        return AdmissionLimits(
            risk=self.admission.risk,
            queue_requests_max=self.admission.queue.requests_max,
            queue_wait_max_s=self.admission.queue.wait_max_s,
            clamp=self.admission.never_fits == "clamp",
            observe=self.mode == "observe",
        )

    def backend_settings(self) -> tuple[BackendSettings, ...]:
        """What each backend is built from."""
        return tuple(backend.settings() for backend in self.backends)

    def parse_policy(self) -> ParsePolicy:
        """What the API's parser lets through."""
        return ParsePolicy(
            unknown_fields=self.input.unknown_fields,
            extra_fields=frozenset(self.input.extra_fields),
            n_max=self.input.n_max,
            remote_media_hosts=frozenset(self.input.allow_remote_media),
        )

    def tenant_keys(self) -> tuple[TenantKeys, ...]:
        """Who may ask, and by which keys."""
        return tuple(tenant.settings() for tenant in self.tenants)

    def shown(self) -> dict[str, object]:
        """The effective configuration, secrets hidden, ready for YAML or JSON."""
        shown = self.model_dump(mode="json", by_alias=True)
        assert isinstance(shown, dict)
        return shown

    def fingerprint(self) -> str:
        """A short hash of the effective configuration without its secrets: equal on replicas that agree."""
        text = json.dumps(self.shown(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
