"""What may stand in gateway.toml, as frozen structs with every unit already read.

A field's name is its TOML key; defaults are the file's defaults. `load.py` turns the text into
these and knows which keys a later version brings to life.
"""

from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, NewType

import msgspec

from tollway.daemon.config.paths import socket_beside
from tollway.providers.units import of_image


class Seconds(float):
    """A time, written as "30s", "15m", "2h" or "400d"."""


class Bytes(int):
    """A size, written as "32MiB" or "64kB"."""


class SecretRef(str):
    """Where a secret is kept: "keyring:NAME", "env:NAME" or "file:PATH"; never the secret."""

    __slots__ = ()


Count = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
Retries = Annotated[int, msgspec.Meta(ge=0, le=10)]
Share = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Weight = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Globs = NewType("Globs", tuple[str, ...])  # one text or a list of them in the file
Part = NewType("Part", Decimal)  # of a budget: over 0, up to 1
# How the targets of a route are ordered, call by call.
Strategy = Literal["ordered", "weighted", "fastest", "cheapest", "least-busy"]
CaseEndpoint = Literal["chat", "completions", "embeddings"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Temperature = NewType("Temperature", float)  # from 0 to 2
ImageKind = NewType("ImageKind", str)  # its quality, its size, or both, as `image_kind` has them
Words = NewType("Words", str)  # a text that may have several lines
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Calendar = Literal["hour", "day", "week", "month", "total"]
Period = str  # a word of `Calendar`, or a rolling span as it is written: "30m", "24h", "7d"
Mode = Literal["hard", "clamp", "warn"]
# What an attempt's input is held by: its bound, or what learned figures expect of it.
HoldBy = Literal["strict", "expected"]


class Budget(msgspec.Struct, frozen=True):
    """An amount for a period: "5/day", "20/7d", or { usd = 20, per = "day", at = "hard" }."""

    nanousd: int
    period: Period
    at: Mode = "hard"

    @property
    def caps(self) -> bool:
        """Whether it ever holds a call back; one that only warns does not."""
        return self.at != "warn"

    @property
    def text(self) -> str:
        """The budget as it is written in the file, for messages: "5/day"."""
        whole, rest = divmod(self.nanousd, 10**9)
        return f"{whole}.{rest:09}".rstrip("0").rstrip(".") + f"/{self.period}"


ScopeKind = Literal["box", "provider", "team", "user", "project", "key", "route", "tag"]
Scope = tuple[ScopeKind, str]  # the name is "" for the box, "NAME=VALUE" for a tag


class Raise(msgspec.Struct, frozen=True):
    """[[raises]]: so much more for the budgets of a scope, of one period or of all, for a time."""

    scope: Scope
    nanousd: int
    until: float  # unix seconds; from then on it is gone
    period: Period | None = None  # None: every budget of the scope
    by: str = ""

    @property
    def text(self) -> str:
        """The scope as it is written in the file: "team ml", "box", "tag run=42 day"."""
        return " ".join(filter(None, (*self.scope, self.period)))


class Alerts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """server.alerts: who is told when a budget fills up, and at which parts of it."""

    at: tuple[Decimal, ...] = (Decimal("0.5"), Decimal("0.8"), Decimal(1))  # ascending
    webhook: str | None = None  # a URL, or a SecretRef where the URL itself is a secret
    command: tuple[str, ...] = ()  # a program and its arguments; no shell


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """limits = { rpm = 60, tpm = 100_000, rpd = 5_000, concurrent = 4 }: how often, how much."""

    rpm: Count | None = None  # calls a minute
    tpm: Count | None = None  # tokens a minute, in and out
    rpd: Count | None = None  # calls a day, in server.timezone
    concurrent: Count | None = None  # calls at once


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """server.tls: PEM files; the certificate's issuers stand below it in its file."""

    cert: Path
    key: Path


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[server]."""

    host: str = "127.0.0.1"  # both from `listen`
    port: int = 4141
    single_user: bool = False
    max_body: Bytes = Bytes(32 * 2**20)
    drain: Seconds = Seconds(30)
    keepalive: Seconds = Seconds(10)
    max_wait: Seconds = Seconds(120)
    max_queue: Count = 1000
    max_connections: Count = 10_000
    max_connections_per_client: Count = 1000
    timezone: str = "UTC"
    budget: tuple[Budget, ...] = ()
    limits: Limits = Limits()
    alerts: Alerts = Alerts()
    default_output: Count = 16_384
    hold: HoldBy = "strict"
    admin_socket: Path | None = None
    tls: Tls | None = None
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()  # "https://app.example:8443", as browsers write them
    watch: bool = True
    behind_proxy: bool = False
    metrics_key: str | None = None  # the key that may read /metrics from elsewhere than loopback
    metrics_per_key: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"


class LedgerFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[ledger]; `path` is absolute here."""

    path: Path
    sync: Literal["normal", "full"] = "normal"
    keep: Seconds = Seconds(400 * 86_400)
    max_size: Bytes = Bytes(16 * 2**30)
    bodies: Literal["off", "errors", "all"] = "off"
    keep_bodies: Seconds = Seconds(7 * 86_400)


class Telemetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[telemetry]: spans and metrics for an OTLP collector."""

    otlp: str | None = None  # its URL; "env": what the OTEL_ variables say; None: nothing is sent
    token: SecretRef | None = None  # goes along as `Authorization: Bearer`
    service: str = "tollway"
    traces: bool = True
    metrics: bool = True
    every: Seconds = Seconds(60)  # how often metrics are sent


class ProviderTimeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """providers.NAME.timeout."""

    connect: Seconds = Seconds(10)
    first: Seconds = Seconds(120)
    idle: Seconds = Seconds(300)


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """providers.NAME.probe: a GET that costs nothing and shows whether the provider is there."""

    path: str  # on the provider's host, not below base_url: "/health", "/v1/models"
    every: Seconds = Seconds(30)


class Breaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """providers.NAME.breaker: when a model there counts as failing, and for how long."""

    failures: Count = 5  # within the window: in a row, or at least half of its calls
    window: Seconds = Seconds(30)
    rest: Seconds = Seconds(10)  # before one call is let through on trial; doubled when that fails
    longest: Seconds = Seconds(300)


class Commit(msgspec.Struct, frozen=True):
    """providers.NAME.commit = { usd = 500, per = "month" }: what is paid there in any case."""

    nanousd: int
    per: Literal["month", "quarter", "year"]


class Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[providers.NAME]. `base_url` and `serves` have their kind's default when None."""

    kind: str
    base_url: str | None = None
    api_key: SecretRef | None = None
    api_keys: tuple[SecretRef, ...] = ()  # a pool, used by turns
    auth: Literal["key", "caller"] = "key"  # whose credential the provider gets
    serves: tuple[str, ...] | None = None
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    proxy: str | None = None
    ca_file: Path | None = None
    timeout: ProviderTimeouts = ProviderTimeouts()
    slots: Count | None = None  # calls at once; more wait for their turn
    limits: Limits = Limits()
    budget: tuple[Budget, ...] = ()
    probe: Probe | None = None
    breaker: Breaker = Breaker()
    discount: Decimal = Decimal(1)  # the part of the list price that is paid
    commit: Commit | None = None

    @property
    def keys(self) -> tuple[SecretRef, ...]:
        """Where its keys are kept: one, several, or none."""
        return self.api_keys or ((self.api_key,) if self.api_key is not None else ())


class PriceOverride(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[prices."PROVIDER/MODEL"]: dollars for a million tokens."""

    input: Decimal
    output: Decimal  # to be said even where it is 0: one that was forgotten would be free
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    audio_input: Decimal | None = None
    reasoning: Decimal | None = None
    audio_output: Decimal | None = None
    image_input: Decimal | None = None
    image_output: Decimal | None = None
    request: Decimal = Decimal(0)
    search: Decimal | None = None
    rerank: Decimal | None = None  # for each search unit
    image: Decimal | None = None  # for each image that is made
    images: dict[ImageKind, Decimal] | None = None  # for each of a kind, below `image`
    audio_minute: Decimal | None = None  # for each minute that is written down
    longest_audio: Decimal | None = None  # minutes
    speech: Decimal | None = None  # for a million characters
    moderation: Decimal | None = None  # for each call
    service_tiers: dict[str, Decimal] | None = None  # how many times the price above, by name
    context_window: Count | None = None

    @property
    def units(self) -> tuple[tuple[str, Decimal], ...]:
        """What is sold in place of tokens, and for how many dollars."""
        keys = ("rerank", "image", "audio_minute", "speech", "moderation")
        said = ((key, getattr(self, key)) for key in keys)
        kinds = ((of_image(kind), usd) for kind, usd in (self.images or {}).items())
        return (*((key, usd) for key, usd in said if usd is not None), *kinds)


PriceSaid = PriceOverride | Literal["free"]


class HourPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """models.NAME.price = { gpu_hour = 0.80 }: dollars for an hour of the model's work."""

    gpu_hour: Decimal


ModelPrice = PriceOverride | HourPrice | Literal["free"]
Layers = int | Literal["auto", "all"]


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[models.NAME]: a GGUF file or a command served by this daemon, called as "local/NAME"."""

    gguf: Path | None = None
    command: str | None = None  # words as a shell has them, but no shell; ${PORT} is a free port
    base_url: str = "http://127.0.0.1:${PORT}/v1"  # of the command's server
    health: str = "/health"  # a path there, not below base_url; "" asks for a connection alone
    start_within: Seconds = Seconds(300)
    env: dict[str, str] = {}
    served_as: str = ""  # what the command's server calls the model
    memory: Bytes = Bytes(0)  # of RAM, that the command takes; 0: not known
    context: Count = 8192
    slots: Count = 4
    kv: Literal["split", "unified"] = "split"  # a context for each slot, or one that they share
    kv_type: Literal["f16", "q8_0", "q4_0"] = "f16"
    gpu_layers: Layers = "auto"
    idle_unload: Seconds = Seconds(15 * 60)
    pinned: bool = False
    load_at_start: bool = False
    apart_from: tuple[str, ...] = ()
    deadline: Seconds | None = None  # of one attempt at work
    price: ModelPrice | None = None
    default_output: Count | None = None
    limits: Limits = Limits()


class Aim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item of `to`: a target, "provider/model", and its share where shares count."""

    target: str
    weight: Weight | None = None

    @property
    def share(self) -> int:
        """Its weight, 1 where the file says none."""
        return 1 if self.weight is None else self.weight


class Between(msgspec.Struct, frozen=True):
    """A time of day, in minutes from midnight: from `start` until before `end`."""

    start: int
    end: int  # not after `start` where midnight lies between the two

    @property
    def text(self) -> str:
        """The times as they are written in the file."""
        return f"{self.clock(self.start)} to {self.clock(self.end)}"

    @staticmethod
    def clock(minutes: int) -> str:
        """Return minutes from midnight as a clock shows them: "09:00"."""
        return f"{minutes // 60:02}:{minutes % 60:02}"


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item of routes.NAME.when: what a call must be like, all of it, and where it then goes.

    Names and values are globs. What the second half leaves out is the route's own.
    """

    team: Globs = Globs(())
    user: Globs = Globs(())
    project: Globs = Globs(())
    key: Globs = Globs(())
    tag: dict[str, Globs] = {}
    header: dict[str, Globs] = {}  # names in lower case
    endpoint: tuple[CaseEndpoint, ...] = ()
    model: Globs = Globs(())  # the name asked for
    input_over: Tokens | None = None
    input_under: Tokens | None = None
    output_over: Tokens | None = None
    output_under: Tokens | None = None
    stream: bool | None = None
    tools: bool | None = None
    images: bool | None = None
    files: bool | None = None
    schema: bool | None = None
    reasoning: bool | None = None
    between: Between | None = None
    days: tuple[Day, ...] = ()
    budget_over: Part | None = None

    aims: tuple[Aim, ...] = msgspec.field(default=(), name="to")
    strategy: Strategy | None = None
    max_temperature: Temperature | None = None
    max_output: Count | None = None
    system_prefix: Words | None = None
    reasoning_effort: Effort | None = None

    @property
    def to(self) -> tuple[str, ...]:
        """Its targets, in the file's order."""
        return tuple(aim.target for aim in self.aims)


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[routes.NAME]: targets, and how they are chosen among."""

    aims: tuple[Aim, ...] = msgspec.field(name="to")
    aliases: tuple[str, ...] = ()  # other names for it, globs too
    strategy: Strategy = "ordered"
    max_temperature: Temperature | None = None  # a request's own, where it is lower
    max_output: Count | None = None  # tokens; likewise
    system_prefix: Words | None = None  # said before a request's own instructions
    reasoning_effort: Effort | None = None  # whatever the request asks for
    affinity: bool = True  # calls of one conversation stay at the target that served it
    when: tuple[Case, ...] = ()
    fallback: tuple[str, ...] = ()  # routes to go on with when every target failed
    retries: Retries = 0  # how often each target is tried again before the next one
    allow_unbounded: bool = False
    on_loss: Literal["warn", "refuse"] = "warn"  # what a target's dialect cannot say
    default_output: Count | None = None
    deadline: Seconds = Seconds(600)
    hold: HoldBy | None = None
    limits: Limits = Limits()
    budget: tuple[Budget, ...] = ()

    @property
    def to(self) -> tuple[str, ...]:
        """Its own targets, in the file's order; those of `when` stand there."""
        return tuple(aim.target for aim in self.aims)

    @property
    def every(self) -> tuple[str, ...]:
        """All targets that it names, its own first."""
        named = (self.to, *(case.to for case in self.when))
        return tuple(dict.fromkeys(target for targets in named for target in targets))

    def leads_to(self, target: str) -> bool:
        """Whether a target is among those that it names; `*` in one of them is any text."""
        every = self.every
        return target in every or any("*" in one and fnmatchcase(target, one) for one in every)


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[groups.NAME]: what its members may call, as globs."""

    models: tuple[str, ...]
    # `except` is a Python keyword.
    excluded: tuple[str, ...] = msgspec.field(default=(), name="except")


class Team(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[teams.NAME]."""

    groups: tuple[str, ...] = ()
    share: Share = 1
    budget: tuple[Budget, ...] = ()
    limits: Limits = Limits()


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[users.NAME] and [projects.NAME]."""

    team: str | None = None
    groups: tuple[str, ...] = ()
    budget: tuple[Budget, ...] = ()
    limits: Limits = Limits()


class PreviousHash(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rotated key's old hash, valid until `until` (UTC, RFC 3339 in the file)."""

    hash: str
    until: float  # unix seconds


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[keys.NAME]; `hash` is "sha256:" and 64 hex digits."""

    hash: str
    hint: str = ""
    user: str | None = None
    project: str | None = None
    expires: date | None = None  # the last day on which it works, in server.timezone
    revoked: date | None = None  # any date here ends it at once
    previous: tuple[PreviousHash, ...] = ()
    budget: tuple[Budget, ...] = ()
    limits: Limits = Limits()
    models: tuple[str, ...] = ()
    require_tags: tuple[str, ...] = ()
    tags: dict[str, str] = {}  # that all its calls have
    private_prefix: bool = False  # local models share what they keep of its prompts with no other


class Tag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[tags.NAME.VALUE]: a tag that has budgets."""

    budget: tuple[Budget, ...] = ()


class Config(msgspec.Struct, frozen=True):
    """One whole, valid gateway.toml. Everything the gate needs is built from one of these."""

    path: Path
    ledger: LedgerFile
    server: Server = Server()
    telemetry: Telemetry = Telemetry()
    providers: dict[str, Provider] = {}
    models: dict[str, Model] = {}
    routes: dict[str, Route] = {}
    groups: dict[str, Group] = {}
    teams: dict[str, Team] = {}
    users: dict[str, Member] = {}
    projects: dict[str, Member] = {}
    keys: dict[str, Key] = {}
    prices: dict[str, PriceSaid] = {}
    tags: dict[str, dict[str, Tag]] = {}
    raises: tuple[Raise, ...] = ()
    warnings: tuple[str, ...] = ()  # "gateway.toml:14: ..." lines that `config check` shows
    stated: dict[tuple[str, ...], object] = {}  # what stands in the file itself, by its key

    @property
    def admin_socket(self) -> Path:
        """Where the daemon listens for its owner: `server.admin_socket`, else by the ledger."""
        return self.server.admin_socket or socket_beside(self.ledger.path)
