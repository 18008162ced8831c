"""What one key of gateway.toml asks of another: names that must exist, things that exclude."""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tollway.daemon.config import check_access, check_edge, check_prices, shown, values
from tollway.daemon.config.check_models import check_model
from tollway.daemon.config.check_routes import (
    LOCAL,
    ROUTE_NAME,
    TAG_VALUE,
    check_names,
    check_route,
    hides,
)
from tollway.daemon.config.lines import At
from tollway.daemon.config.paths import LONGEST_SOCKET
from tollway.daemon.config.schema import (
    Budget,
    Config,
    Key,
    LedgerFile,
    Member,
    Probe,
    Provider,
    Route,
    Scope,
    ScopeKind,
    Team,
    Telemetry,
)
from tollway.providers import extras
from tollway.providers.catalog import KINDS
from tollway.providers.price_report import states_cost

# What the `otel` extra brings; found without being imported.
OTEL = "opentelemetry.exporter.otlp.proto.http"

Wrong = Callable[[At, str], None]
Names = Mapping[str, Collection[str]]  # section -> the names in it, those of broken tables too

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_LOCAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+:-]{0,127}")
# What may stand in the header `x-tollway-tags`: no comma, which parts tags, and no space.
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RUN = "run"
# What `tollway run` makes, and nothing else that a script is likely to number its runs by.
_RUN_ID = re.compile(r"[0-9]{6}-[0-9a-f]{8}")
_HOST = re.compile(r"\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)")
# A path, and a query if it needs one; not a whole URL, which would name another host.
_PATH = re.compile(r"/(?!/)[!$%&'()*+,./:;=?@\w~-]{0,200}", re.ASCII)
# An address with it stands in many a server's documentation.
_ENDPOINT = re.compile(r"(/(?:(?:chat/)?completions|messages|responses|embeddings))/*\Z")
_LEAST_PROBE_S = 1.0
_LEAST_BREAKER_S = 0.1
_LEAST_KEEP_S = 86_400
_LEAST_KEEP_BODIES_S = 60
_LEAST_SIZE = 64 * 2**20
_MOST_GLOBS = 300  # compared each with each
_MOST_PAID = Decimal("1.5")  # of a list price: surcharges for a region are a tenth
_RARE_DISCOUNT = Decimal("0.5")  # below it a discount may be meant the other way round
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")


# Lists that narrow what the levels above allow; empty ones would not.
NARROWING = frozenset(
    {("keys", "models"), ("users", "groups"), ("projects", "groups"), ("teams", "groups")}
)


def check_lists(stated: Mapping[tuple[str, ...], object], wrong: Wrong) -> None:
    """Tell of lists of what is allowed that are empty.

    Who empties one means that nothing is; it would be all that the other levels allow.
    """
    for at, said in stated.items():
        if said == [] and (at[0], at[-1]) in NARROWING and len(at) == 3:
            wrong(at, "is empty, which narrows nothing; name some, or remove it")


def name_wrong(section: str, name: str) -> str | None:
    """Return why a table of this section may not have this name, or None where it may."""
    match section:
        case "routes":
            pattern, also = ROUTE_NAME, " . _ - @ + : / and, in globs, * ?"
        case "models":
            pattern, also = _LOCAL_NAME, " . _ - @ + :"
        case "prices":
            fine = "/" in name.strip("/") and name.isprintable() and len(name) < 200
            return None if fine else 'expected a target in quotes, such as "openai/gpt-4o-mini"'
        case _:
            pattern, also = _NAME, " . _ - @ +"
    if section == "providers" and name == LOCAL:
        return f"the name {LOCAL} is taken by the models of this box"
    if pattern.fullmatch(name):
        return None
    also += f", a letter or digit first, at most {64 if pattern is _NAME else 128}"
    return f"no name that {section} can have: letters, digits and{also}"


def tag_wrong(name: str) -> str | None:
    """Return why a tag may not have this name, or None where it may."""
    if _TAG.fullmatch(name):
        return None
    return "no name that a tag can have: letters, digits and . _ -, at most 64"


def tag_value_wrong(value: str) -> str | None:
    """Return why a tag may not have this value, or None where it may."""
    if TAG_VALUE.fullmatch(value):
        return None
    return "no value that a tag can have: printable ASCII without space and comma, at most 128"


def is_run(name: str, value: str) -> bool:
    """Whether a tag is of a run of `tollway run`, which alone may say it."""
    return name == RUN and bool(_RUN_ID.fullmatch(value))


def host_and_port(listen: str) -> tuple[str, int]:
    """Return the two halves of `server.listen`.

    Raises:
        ValueError: It is not HOST:PORT; the text says how to write it.
    """
    host, _, port = listen.rpartition(":")
    found = _HOST.fullmatch(host)
    if not found or not port.isdecimal() or not port.isascii():
        raise ValueError('expected HOST:PORT, such as "127.0.0.1:4141" or "[::1]:4141"')
    if len(port) > 5 or int(port) > 65_535:
        raise ValueError("a port is a number up to 65535")
    return found[1] or found[2], int(port)


def check(config: Config, names: Names, wrong: Wrong) -> None:
    """Note everything in a configuration that does not fit together."""
    _server(config, names, wrong)
    _ledger(config.ledger, wrong)
    _telemetry(config.telemetry, wrong)
    for name, provider in config.providers.items():
        _provider(provider, ("providers", name), wrong)
    for name, route in config.routes.items():
        check_route(route, ("routes", name), config, names, wrong)
        _refers("routes", route.fallback, ("routes", name, "fallback"), names, wrong)
    check_names(config, wrong)
    for name, model in config.models.items():
        check_model(name, model, config, names, wrong)
    for name, group in config.groups.items():
        if not group.models:
            wrong(("groups", name, "models"), "allows nothing; name models, or remove the group")
    for name, team in config.teams.items():
        _refers("groups", team.groups, ("teams", name, "groups"), names, wrong)
    sections: tuple[tuple[str, dict[str, Member]], ...] = (
        ("users", config.users),
        ("projects", config.projects),
    )
    for section, members in sections:
        for name, member in members.items():
            _refers("groups", member.groups, (section, name, "groups"), names, wrong)
            if member.team is not None:
                _refer("teams", member.team, (section, name, "team"), names, wrong)
    _keys(config, names, wrong)


def _server(config: Config, names: Names, wrong: Wrong) -> None:
    server = config.server
    if server.single_user and names["keys"]:
        wrong(
            ("server", "single_user"),
            "excludes [keys]: with it no key is asked for; remove one of the two",
        )
    if not _LOOPBACK.fullmatch(server.host):
        if server.single_user:
            wrong(
                ("server", "listen"),
                "other than loopback, where single_user would let everyone in; "
                'write "127.0.0.1:4141" or remove single_user',
            )
        elif not server.behind_proxy and server.tls is None:
            wrong(
                ("server", "listen"),
                "other than loopback, where keys would travel unencrypted; set server.tls = "
                '{ cert = "cert.pem", key = "key.pem" }, or put a proxy that speaks TLS in front '
                "and set server.behind_proxy = true",
            )
    for key, number, fault in check_edge.wrong_names(server):
        wrong(("server", key, number), fault)
    if server.metrics_key is not None:
        _refer("keys", server.metrics_key, ("server", "metrics_key"), names, wrong)
    if why := zone_wrong(server.timezone):
        wrong(("server", "timezone"), why)
    if why := _webhook_wrong(server.alerts.webhook):
        wrong(("server", "alerts", "webhook"), why)
    if any("\0" in word for word in server.alerts.command) or server.alerts.command[:1] == ("",):
        wrong(("server", "alerts", "command"), "names no program that could be run")
    socket = server.admin_socket
    if socket and len(bytes(socket)) > LONGEST_SOCKET:
        wrong(("server", "admin_socket"), f"longer than {LONGEST_SOCKET} bytes, as sockets allow")


def _telemetry(telemetry: Telemetry, wrong: Wrong) -> None:
    said = telemetry.otlp
    if said is None:
        return
    url = urlsplit(said)
    if said != "env" and (url.scheme not in {"http", "https"} or not url.hostname):
        wrong(
            ("telemetry", "otlp"),
            'expected the URL of an OTLP collector, such as "http://127.0.0.1:4318", or "env"',
        )
    elif url.username or url.password or url.query:
        wrong(("telemetry", "otlp"), "holds more than an address; a secret is for telemetry.token")
    elif find_spec(OTEL) is None:
        wrong(
            ("telemetry", "otlp"),
            f"needs OpenTelemetry, which is not installed; {extras.install('otel')}",
        )


def _webhook_wrong(said: str | None) -> str | None:
    if said is None or values.is_secret_ref(said):
        return None
    if shown.looks_secret(said) or any(map(_is_token, re.split(r"[/?&=]", said))):
        # Whoever has the address of such a webhook can post to it: it is a key like any other.
        return (
            "holds a secret; keep the URL with `tollway secrets set alerts`, then write "
            'webhook = "keyring:alerts"'
        )
    try:
        parts = urlsplit(said)
        fine = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.username is not None or parts.fragment or " " in said:
        return 'expected a URL, such as "https://hook.example/tollway", or keyring:NAME'
    return None


def _ledger(ledger: LedgerFile, wrong: Wrong) -> None:
    if os.path.isdir(ledger.path):
        wrong(("ledger", "path"), 'is a folder; name a file in it, such as "ledger.db"')
    # Below these a slip of the pen would delete what somebody still looks for.
    if ledger.keep < _LEAST_KEEP_S:
        wrong(("ledger", "keep"), 'less than "1d", the least that a row stays')
    if ledger.keep_bodies < _LEAST_KEEP_BODIES_S:
        wrong(("ledger", "keep_bodies"), 'less than "1m", the least that a body stays')
    if ledger.max_size < _LEAST_SIZE:
        wrong(("ledger", "max_size"), 'less than "64MiB", the least that a ledger may hold')


def _is_token(part: str) -> bool:
    # Shorter than other secrets: those of chat services have 24 characters.
    return len(part) >= 20 and bool(re.search(r"\d", part) and re.search(r"[A-Za-z]", part))


def zone_wrong(name: str) -> str | None:
    """Return why a time zone cannot be used, or None where it can."""
    if name == "UTC":
        return None
    from zoneinfo import ZoneInfo, available_timezones  # noqa: PLC0415 - most files say UTC

    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        known = available_timezones()
        if not known:
            return "this machine has no time zone data; install the package tzdata"
        return f"unknown time zone{shown.meant(name, known)}"
    return None


def _provider(provider: Provider, at: At, wrong: Wrong) -> None:
    kind = KINDS.get(provider.kind)
    usable = [name for name in KINDS if name != LOCAL]
    if kind is None or provider.kind == LOCAL:
        near = shown.meant(provider.kind, usable) or f"; there are {', '.join(usable)}"
        wrong((*at, "kind"), f"unknown kind{near}")
    elif provider.base_url is None and kind.base_url is None:
        such = f", such as {shown.value(kind.address)}" if kind.address else ""
        wrong(at, f"base_url is missing; the kind {provider.kind} has no address of its own{such}")
    if provider.auth == "caller" and provider.keys:
        which = "api_key" if provider.api_key is not None else "api_keys"
        wrong((*at, "auth"), f'"caller" passes on the caller\'s own credential; remove {which}')
    _pool(provider, at, wrong)
    if provider.probe is not None and (fault := _probe_wrong(provider.probe)):
        wrong((*at, "probe", fault[0]), fault[1])
    for name in ("window", "rest", "longest"):
        if getattr(provider.breaker, name) < _LEAST_BREAKER_S:
            wrong((*at, "breaker", name), 'less than "100ms"')
    if why := _discount_wrong(provider, kind.quirks if kind else frozenset()):
        wrong((*at, "discount"), why)
    for field in ("base_url", "proxy"):
        url: str | None = getattr(provider, field)
        if url is not None and (why := _url_wrong(url)):
            wrong((*at, field), why)
        elif field == "base_url" and (end := _ENDPOINT.search(url or "")):
            wrong((*at, field), f"ends in {shown.value(end[1])}, which each call adds; take it off")


def _pool(provider: Provider, at: At, wrong: Wrong) -> None:
    if provider.api_key is not None and provider.api_keys:
        wrong((*at, "api_keys"), "stands beside api_key; one of them is enough")
    for number, ref in enumerate(provider.api_keys):
        if ref in provider.api_keys[:number]:
            wrong((*at, "api_keys", number), f"the same as another one: {shown.value(ref)}")


def _probe_wrong(probe: Probe) -> tuple[str, str] | None:
    """Return which part of a probe is wrong, and why."""
    if not _PATH.fullmatch(probe.path):
        return "path", 'expected a path on the provider\'s host, such as "/health"'
    if probe.every < _LEAST_PROBE_S:
        return "every", 'less than "1s": a probe is no load test'
    return None


def _discount_wrong(provider: Provider, quirks: frozenset[str]) -> str | None:
    part = provider.discount
    if not 0 < part <= _MOST_PAID:
        return (
            "expected the part of the list price that is paid, over 0 and up to 1.5: 0.9 is 10%"
            " off, 1.1 a surcharge of 10%"
        )
    if part == 1:
        return None
    if provider.auth == "caller":
        return "does nothing where the caller's own account pays; remove it"
    if states_cost(quirks):
        return (
            f"does nothing: {provider.kind} says in each answer what it charged, and that is"
            " billed; remove it"
        )
    return None


def _url_wrong(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "no URL that can be read"
    if parts.scheme not in {"http", "https"} or not host or " " in url:
        return 'expected a URL, such as "http://127.0.0.1:8000/v1"'
    if parts.username is not None or parts.password is not None:
        return "holds a name or a password, which this file must not; remove it"
    if parts.query or parts.fragment:
        return "has a query or a fragment, which no base address has"
    return None


def _refers(section: str, wanted: tuple[str, ...], at: At, names: Names, wrong: Wrong) -> None:
    for number, name in enumerate(wanted):
        _refer(section, name, (*at, number), names, wrong)


def _refer(section: str, name: str, at: At, names: Names, wrong: Wrong) -> None:
    if name not in names[section]:
        near = shown.meant(name, names[section])
        wrong(at, f"no {section.removesuffix('s')} {shown.value(name)} in [{section}]{near}")


def _keys(config: Config, names: Names, wrong: Wrong) -> None:
    seen: dict[str, str] = {}
    for name, key in config.keys.items():
        at = ("keys", name)
        if not values.is_hash(key.hash):
            wrong((*at, "hash"), values.NO_HASH)
        for digest in (key.hash, *(old.hash for old in key.previous)):
            other = seen.setdefault(digest, name)
            if other != name:
                wrong((*at, "hash"), f"the same as that of the key {shown.value(other)}")
        for number, tag in enumerate(key.require_tags):
            if why := tag_wrong(tag):
                wrong((*at, "require_tags", number), why)
        for tag, value in key.tags.items():
            if why := tag_wrong(tag) or tag_value_wrong(value):
                wrong((*at, "tags", tag), why)
            elif is_run(tag, value):
                wrong(
                    (*at, "tags", tag),
                    "is of a run of `tollway run`, which alone may say it; number runs of your own"
                    " otherwise, such as 42",
                )
        _owner(config, key, at, names, wrong)


def _owner(config: Config, key: Key, at: At, names: Names, wrong: Wrong) -> None:
    if key.user is None and key.project is None:
        wrong(at, "needs a user or a project, to which its calls are billed")
    teams: dict[Literal["user", "project"], str] = {}
    sections: tuple[tuple[Literal["user", "project"], str | None, dict[str, Member]], ...] = (
        ("user", key.user, config.users),
        ("project", key.project, config.projects),
    )
    for field, name, members in sections:
        if name is None:
            continue
        _refer(f"{field}s", name, (*at, field), names, wrong)
        if name in members and members[name].team is not None:
            teams[field] = members[name].team or ""
    if len(set(teams.values())) > 1:
        wrong(
            at,
            f"the user is in team {shown.value(teams['user'])}, the project in team "
            f"{shown.value(teams['project'])}; a call is billed to one",
        )


def doubts(config: Config, names: Names) -> Iterator[tuple[At, str]]:
    """Yield what is allowed and yet may not be meant: names and files that miss their aim."""
    yield from _overlaps(config)
    if why := check_edge.program_missing(config.server.alerts.command, config.path.parent):
        yield ("server", "alerts", "command"), why
    for name, provider in config.providers.items():
        needs = KINDS[provider.kind].auth == "bearer" and provider.auth == "key"
        if not provider.keys and needs:
            yield ("providers", name), "has no api_key, without which this kind refuses all calls"
        if 0 < (part := provider.discount) < _RARE_DISCOUNT:
            said = f"pays {part:%} of the list price; for {part:%} off write {1 - part}"
            yield ("providers", name, "discount"), said
        if provider.ca_file is not None and not os.path.exists(provider.ca_file):
            said = f"there is no file {shown.value(str(provider.ca_file))}"
            yield ("providers", name, "ca_file"), said
    yield from hides(config, names)
    yield from check_access.idle_names(config)
    for name, model in config.models.items():
        if model.gguf is not None and not _is_file(model.gguf):
            yield ("models", name, "gguf"), f"there is no file {shown.value(str(model.gguf))}"
    yield from _shared_after_all(config)
    for name in config.prices:
        if why := check_prices.idle(name, config):
            yield ("prices", name), why
    periods = {scope: {one.period for one in budgets} for scope, budgets in budgets_of(config)}
    for number, one in enumerate(config.raises):
        there = periods.get(one.scope, set())
        if not there or (one.period and one.period not in there):
            yield ("raises", number), f"there is no budget of {shown.value(one.text)} to raise"


def _shared_after_all(config: Config) -> Iterator[tuple[At, str]]:
    commands = [name for name, model in config.models.items() if model.command is not None]
    for name, key in config.keys.items():
        if key.private_prefix and commands:
            said = f"says nothing to {shown.value(LOCAL + '/' + commands[0])}, whose command keeps"
            yield ("keys", name, "private_prefix"), f"{said} prompts as it likes"


def budgets_of(config: Config) -> Iterator[tuple[Scope, tuple[Budget, ...]]]:
    """Yield every scope that has budgets, with them, in the order of the sections."""
    yield ("box", ""), config.server.budget
    tables: tuple[tuple[ScopeKind, Mapping[str, Provider | Route | Team | Member | Key]], ...] = (
        ("provider", config.providers),
        ("team", config.teams),
        ("user", config.users),
        ("project", config.projects),
        ("key", config.keys),
        ("route", config.routes),
    )
    for kind, table in tables:
        for name, one in table.items():
            yield (kind, name), one.budget
    for name, known in config.tags.items():
        for value, tag in known.items():
            yield ("tag", f"{name}={value}"), tag.budget


def _overlaps(config: Config) -> Iterator[tuple[At, str]]:
    serving: list[tuple[str, str]] = []
    for name, provider in config.providers.items():
        served = KINDS[provider.kind].serves if provider.serves is None else provider.serves
        globs = served[:_MOST_GLOBS]
        lost: dict[str, list[str]] = {}
        for glob in globs:
            taken = (other for other, earlier in serving if _overlap(glob, earlier))
            if first := next(taken, None):
                lost.setdefault(first, []).append(glob)
        for other, names in lost.items():
            told = ", ".join(shown.value(one) for one in names[:5])
            yield ("providers", name), f"`{other}` stands before it and gets the bare names {told}"
        serving = (serving + [(name, glob) for glob in globs])[:_MOST_GLOBS]


def _overlap(one: str, other: str) -> bool:
    """Whether two globs are one, or one has the other's text among its names."""
    return one == other or fnmatchcase(one, other) or fnmatchcase(other, one)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False
