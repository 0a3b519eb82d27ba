"""Every key of the configuration with its meaning, default and bounds; and what the rooms get from them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import ByteSize, Field, model_validator

from gateway.admission.limits import AdmissionLimits
from gateway.admission.slo import Slo
from gateway.api.auth import TenantKeys
from gateway.api.parse import ParsePolicy
from gateway.backends.settings import BackendSettings, KvSettings
from gateway.backends.upstream import UpstreamTimeouts
from gateway.config.listen import Listen
from gateway.config.secret import ENVIRON, REFERENCES, KeyDigest, Secret
from gateway.config.values import (
    Count,
    Models,
    Name,
    Positive,
    Real,
    Seconds,
    Section,
    StoreUrl,
    Url,
    Whole,
    backend_name,
)
from gateway.domain import BackendLimits, Priority, TenantLimits
from gateway.request import Tenant
from gateway.shared_ledger.claims import LedgerSettings

_ADMISSION = AdmissionLimits()
_UPSTREAM = UpstreamTimeouts()
_LEDGER = LedgerSettings("")


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

    requests_per_minute: Count = 0
    """Requests per minute."""
    tokens_per_minute: Count = 0
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


class SloConfig(Section):
    """What some requests are promised. Of several entries the first that fits a request holds."""

    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Public name of a model; null: any."""
    priority: Literal["interactive", "standard", "batch"] | None = None
    """Class of the requests; null: any."""
    ttft_s: Annotated[Real, Field(gt=0, le=3600, allow_inf_nan=False)] | None = None
    """Longest time to the first token. Who cannot have it in time goes to a provider, or is refused. null: no limit
    but queue.wait_max_s."""
    ttft_per_1k_prompt_tokens_s: Annotated[Real, Field(ge=0, le=60, allow_inf_nan=False)] = 0.1
    """Granted on top for each 1,000 tokens of the prompt."""
    time_per_output_token_s: Annotated[Real, Field(gt=0, le=60, allow_inf_nan=False)] | None = None
    """Longest mean time of the tokens after the first: no more is let in than keeps it. null: any."""

    def settings(self) -> Slo:
        """The same in the words of admission."""
        return Slo(
            model=self.model,
            priority=Priority[self.priority.upper()] if self.priority else None,
            ttft_s=self.ttft_s or math.inf,
            ttft_per_1k_prompt_tokens_s=self.ttft_per_1k_prompt_tokens_s,
            time_per_output_token_s=self.time_per_output_token_s or math.inf,
        )


class AdmissionConfig(Section):
    """How much is let in."""

    risk: Annotated[Real, Field(gt=0, lt=0.5, allow_inf_nan=False)] = _ADMISSION.risk
    """Accepted chance that admitted work outgrows the pool."""
    queue: Queue = Queue()
    slo: Annotated[tuple[SloConfig, ...], Field(max_length=1000)] = ()
    """What requests are promised, by model and class; where nothing fits: 0.2 s per token for interactive requests,
    0.5 s for standard ones."""
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
    kv_share: Annotated[Real, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
    """Part of a backend's KV cache it may hold while others want room."""
    requests_max: Count = 0
    """Requests of it that run at once; as many more may wait for their turn. 0: no limit."""
    requests_per_minute: Count = 0
    """Requests it may send per minute, all in one burst or evenly. This limit, and those beside it, count in each
    gateway for itself. 0: no limit."""
    tokens_per_minute: Count = 0
    """Prompt and output tokens per minute: as expected when a request comes, as used when it has ended. 0: no limit."""

    def settings(self) -> TenantKeys:
        """The same in the words of the API's room."""
        limits = TenantLimits(self.requests_max, self.requests_per_minute, self.tokens_per_minute)
        tenant = Tenant(self.name, Priority[self.priority.upper()], self.kv_share, limits)
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


class State(Section):
    """Where what is learned of models (lengths of answers and prompts) is kept over restarts."""

    path: Annotated[str | None, Field(min_length=1, max_length=4096)] = None
    """A file in a folder that the gateway may write to, for one gateway alone; null: nothing is kept."""
    save_every_s: Annotated[Real, Field(ge=1, le=86_400, allow_inf_nan=False)] = 60.0
    """Time between two saves; it is saved at the end as well."""


class MetricsConfig(Section):
    """What metrics tell beside what they always do."""

    tenants: bool = False
    """Whether decisions and use of memory are told by tenant: the first 100 by name, the others together."""


class Log(Section):
    """What is logged. Prompts and answers never are."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is written."""
    format: Literal["auto", "json", "console"] = "auto"
    """json, console (for people), or auto: console on a terminal, else json."""
    admitted_share: Annotated[Real, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    """Share of requests that went well which have a line; refusals, errors and clients that left always have one."""


class JournalConfig(Section):
    """A file of all decisions and how they ended, without prompts: for `kvgate replay` and for looking back."""

    path: Annotated[str | None, Field(min_length=1, max_length=4096)] = None
    """The file, one JSON object a line; null: the last decisions are kept in memory alone."""
    bytes_max: Annotated[ByteSize, Field(ge=2**20, le=2**40)] = ByteSize(64 * 2**20)
    """Size at which it is put aside as PATH.1, in bytes or as 64MiB."""
    keep: Annotated[Whole, Field(ge=0, le=1000)] = 2
    """How many files that were put aside are kept."""


class LedgerConfig(Section):
    """Several gateways in front of the same backends, named alike in each: what they hold is kept together in a store.
    Or just the store's URL."""

    url: StoreUrl | None = None
    """redis://HOST:PORT/NUMBER, rediss:// with TLS, or unix://PATH: Valkey, or Redis 7 and later (needs
    `kvgate[redis]`); null: this gateway is alone."""
    password: Secret | None = None
    """Password of the store: env:NAME or file:PATH, never the password itself."""
    prefix: Name = _LEDGER.prefix
    """Tells the ledgers of several deployments in one store apart."""
    replicas_max: Annotated[Whole, Field(ge=1, le=256)] = _LEDGER.replicas_max
    """A gateway that has not yet seen how many share a pool keeps to this part of it: 16 means a sixteenth."""
    ttl_s: Annotated[Real, Field(ge=1, le=60, allow_inf_nan=False)] = _LEDGER.ttl_s
    """What a gateway holds lapses when it has not been heard for so long."""

    @model_validator(mode="before")
    @classmethod
    def _url_alone(cls, given: object) -> object:
        return {"url": given} if isinstance(given, str) else given

    def settings(self) -> LedgerSettings | None:
        """The same in the words of the ledger's room; None: there is none."""
        if self.url is None:
            return None
        password = self.password.reveal() if self.password else None
        return LedgerSettings(self.url, password, self.prefix, self.replicas_max, self.ttl_s)


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
    metrics: MetricsConfig = MetricsConfig()
    state: State = State()
    tokenizers: dict[str, str] = Field(default_factory=dict)
    """Public model name: path of its tokenizer.json or of the folder with it, to count prompts exactly (needs
    `kvgate[tokenizer]`); else a ratio is learned."""
    drain_max_s: Seconds = 300.0
    """How long running requests may go on after SIGTERM."""
    response_headers: bool = True
    """Whether answers carry x-kvgate-* headers that explain the decision."""
    workers: Annotated[Whole, Field(ge=1, le=256)] = 1
    """Processes that carry requests; one more decides for all of them if there are several."""
    log: Log = Log()
    journal: JournalConfig = JournalConfig()
    ledger: LedgerConfig = LedgerConfig()
    watch: bool = False
    """Reload by itself when this file, or that of a secret or certificate, changes. SIGHUP and POST /-/reload always
    do."""

    def admission_limits(self) -> AdmissionLimits:
        """Admission's own settings."""
        return AdmissionLimits(
            risk=self.admission.risk,
            queue_requests_max=self.admission.queue.requests_max,
            queue_wait_max_s=self.admission.queue.wait_max_s,
            clamp=self.admission.never_fits == "clamp",
            observe=self.mode == "observe",
        )

    def slos(self) -> tuple[Slo, ...]:
        """What requests are promised."""
        return tuple(slo.settings() for slo in self.admission.slo)

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

    def shown_tenants(self) -> tuple[str, ...]:
        """Tenants that metrics tell apart."""
        return tuple(tenant.name for tenant in self.tenants) if self.metrics.tenants else ()

    def shown(self) -> dict[str, object]:
        """The effective configuration, secrets hidden, ready for YAML or JSON."""
        shown = self.model_dump(mode="json", by_alias=True)
        assert isinstance(shown, dict)
        return shown

    def referring(self) -> bytes:
        """All of it as JSON with secrets by reference, for another process of this gateway."""
        return self.model_dump_json(by_alias=True, context={REFERENCES: True}).encode()

    @classmethod
    def referred(cls, content: bytes, environ: Mapping[str, str]) -> Config:
        """What `referring` gave, its secrets looked up again.

        Raises:
            ValidationError: one cannot be found any more.
        """
        return cls.model_validate_json(content, context={ENVIRON: environ})

    def fingerprint(self) -> str:
        """A short hash of the effective configuration without its secrets: equal on replicas that agree."""
        text = json.dumps(self.shown(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
