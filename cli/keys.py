"""`keys`: who may call. A secret is shown once, and only its hash is kept."""

import re
import secrets
import sys
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
import typer

from tollway.cli import complete, edits, key_ends, limits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import load_config
from tollway.cli.limits import Concurrent, Limit, Rpd, Rpm, Tpm
from tollway.cli.options import AsJson, Budgets, ConfigFile, Globs, Yes
from tollway.cli.standing import COLUMNS, Standing, block, cells
from tollway.cli.standing import Budgets as Books
from tollway.daemon.config import shown, units
from tollway.daemon.config.schema import Config, Key

_PREFIX = "tw-"
_BYTES = 32  # 256 random bits: nobody guesses one, so a fast hash is enough
_LONGEST_GRACE_S = 90 * 86_400
_DAYS = re.compile(r"(\d{1,5})([dw])")

Name = Annotated[
    str, typer.Argument(help="The key's name.", autocompletion=complete.entries("keys"))
]
New = Annotated[str, typer.Argument(metavar="NAME", help="The key's name.")]


class Shown(msgspec.Struct, frozen=True):
    """A key as it is shown: everything but its hash. `grace_until` is unix seconds."""

    name: str
    hint: str
    state: str
    user: str | None
    project: str | None
    team: str | None
    expires: date | None
    revoked: date | None
    grace_until: float | None  # until when an older secret works too
    models: tuple[str, ...]
    budgets: list[Standing]
    limits: list[Limit]


UserOf = Annotated[
    str | None,
    typer.Option(
        "--user",
        metavar="NAME",
        help="The user it is billed to.",
        autocompletion=complete.entries("users"),
    ),
]
ProjectOf = Annotated[
    str | None,
    typer.Option(
        "--project",
        metavar="NAME",
        help="The project, or that too.",
        autocompletion=complete.entries("projects"),
    ),
]


Expires = Annotated[
    str | None,
    typer.Option(
        "--expires", metavar="DATE", help="The last day it works: 2027-01-31, or 90d, 12w from now."
    ),
]


def create(  # noqa: PLR0913 - an argument is an option
    name: New,
    *,
    user: UserOf = None,
    project: ProjectOf = None,
    budget: Budgets = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    rpd: Rpd = None,
    concurrent: Concurrent = None,
    expires: Expires = None,
    models: Globs = None,
    yes: Yes = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, and show its secret once.

    The secret alone goes to stdout; gateway.toml holds its hash. The user or project must be
    there, and says with its team what the key may call. The first key of a single-user gateway
    ends that: from then on every call needs one.

    Examples:
        tollway keys create ci --user ada --budget 5/day --rpm 60
        KEY=$(tollway keys create bot --project chatbot --models 'local/*')
    """
    loaded = load_config(config)
    edits.require_new(loaded, "keys", name, hint=_instead(loaded, name))
    require_owner(loaded, name, user, project)
    last = last_day(expires, loaded)
    if loaded.server.single_user:
        edits.agreed("Keys end `server.single_user`: every call will need one. Go on?", yes=yes)
    secret, fields = _new_secret()
    values = {**fields, "user": user, "project": project, "expires": last}
    values |= {"budget": budget or None, "models": models or None}
    values["limits"] = limits.said(rpm, tpm, rpd, concurrent) or None
    alter = edits.put("keys", name, values, new=True)
    if loaded.server.single_user:
        alter = edits.both(edits.put_in("server", {"single_user": False}), alter)
    done = edits.apply(loaded.path, alter, what=f"keys create {name}")
    if not as_json:
        _hand_over(name, secret)
        if loaded.server.single_user:
            show.note("`server.single_user` is now false: every call needs a key")
    _warn_if_useless(done.config, name)
    single = {"single_user_ended": loaded.server.single_user}
    facts = {"name": name, "key": secret, "hint": fields["hint"], **single}
    edits.report(done, facts, ("keys", name), as_json=as_json)


def require_owner(config: Config, name: str, user: str | None, project: str | None) -> None:
    """Return when a key may be billed to these.

    Raises:
        UsageProblem: To nobody.
        Unknown: There is no such user or project.
    """
    if user is None and project is None:
        raise UsageProblem(
            "A key needs a user or a project, to which its calls are billed",
            hint=f"`tollway keys create {name} --user NAME`",
        )
    for section, said in (("users", user), ("projects", project)):
        if said is not None:
            edits.require_known(config, section, said, create=f"tollway {section} create {said}")


def last_day(said: str | None, config: Config) -> date | None:
    """Return a key's last day as it was typed, or so many days or weeks from now; None for none.

    Raises:
        UsageProblem: It is no date, or over.
    """
    if said is None:
        return None
    span = _DAYS.fullmatch(said.strip().lower())
    try:
        found = date.fromisoformat(said) if span is None else _today(config) + _days(span)
    except (ValueError, OverflowError) as fault:
        raise UsageProblem(
            f"`--expires {said}` is no date",
            hint="Write it as 2027-01-31, or as `90d` or `12w` from now",
        ) from fault
    if found < _today(config):
        raise UsageProblem(f"`--expires {said}` is over already")
    return found


def _days(span: re.Match[str]) -> timedelta:
    return timedelta(days=int(span[1]) * (7 if span[2] == "w" else 1))


def _today(config: Config) -> date:
    return datetime.now(ZoneInfo(config.server.timezone)).date()


def _new_secret() -> tuple[str, dict[str, object]]:
    """Return a secret and what gateway.toml keeps of it."""
    secret = _PREFIX + secrets.token_hex(_BYTES)
    start = len(_PREFIX) + 4
    digest = sha256(secret.encode()).hexdigest()
    return secret, {"hash": f"sha256:{digest}", "hint": f"{secret[:start]}...{secret[-2:]}"}


def _hand_over(name: str, secret: str) -> None:
    show.note(f"The secret of `{name}`, shown this once:")
    show.say(secret)
    # Before anything else is said: a pipe's reader waits for it.
    sys.stdout.flush()


def _warn_if_useless(config: Config, name: str) -> None:
    """Say so where no level above a key says anything: then it may call nothing."""
    key = config.keys[name]
    team = _team(config, key)
    user = config.users[key.user].groups if key.user else ()
    project = config.projects[key.project].groups if key.project else ()
    if key.models or user or project or (team and config.teams[team].groups):
        return
    edits.warn(f"`{name}` may call nothing: neither it nor what is above it names models")
    group = next(iter(config.groups), None)
    if group is None:
        edits.hint("`tollway groups create everyone --models '*'` makes a group; then")
        group = "everyone"
    owner = f"teams set {team}" if team else None
    owner = owner or (f"users set {key.user}" if key.user else f"projects set {key.project}")
    edits.hint(f"`tollway {owner} --group {group}` lets it call what the group names")


def _team(config: Config, key: Key) -> str | None:
    user = config.users[key.user].team if key.user else None
    return user or (config.projects[key.project].team if key.project else None)


def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the keys: whose, until when, for how much.

    What is spent and left is shown while the daemon runs.

    Example:
        tollway keys list
    """
    loaded = load_config(config)
    books = Books(loaded)
    rows = [_shown(loaded, name, books) for name in loaded.keys]
    if as_json:
        show.emit(rows)
        return
    if not rows:
        show.note("There are no keys: `tollway keys create NAME --user USER` makes one")
        return
    show.table(
        ["key", "hint", "user", "project", "team", "expires", "state", *COLUMNS],
        [
            (
                one.name,
                one.hint,
                one.user or "",
                one.project or "",
                one.team or "",
                str(one.expires or ""),
                _painted(one),
                *cells(one.budgets),
            )
            for one in rows
        ],
    )
    for name, last in key_ends.ending_soon(loaded):
        show.note(f"`{name}` ends after {last}: {key_ends.prolongs(name)}")


def _shown(config: Config, name: str, books: Books) -> Shown:
    key = config.keys[name]
    now = datetime.now(UTC).timestamp()
    return Shown(
        name=name,
        hint=key.hint,
        state=_state(config, key),
        user=key.user,
        project=key.project,
        team=_team(config, key),
        expires=key.expires,
        revoked=key.revoked,
        grace_until=max((old.until for old in key.previous if old.until > now), default=None),
        models=key.models,
        budgets=books.of("key", name, key.budget),
        limits=books.limits("key", name, key.limits),
    )


def _instead(config: Config, name: str) -> str:
    """Return what helps whoever wants a new secret of a name that is taken."""
    key = config.keys.get(name)
    state = _state(config, key) if key else "active"
    if state == "revoked":
        return (
            f"`tollway keys set {name} --no-revoked` lets it work again; `tollway keys revoke"
            f" {name} --delete` frees the name"
        )
    if state == "expired":
        return f"`tollway keys set {name} --expires DATE` makes it work again"
    return f"`tollway keys rotate {name}` gives it another secret"


def _state(config: Config, key: Key) -> str:
    if key.revoked is not None:
        return "revoked"
    return "expired" if key.expires and key.expires < _today(config) else "active"


def _painted(one: Shown) -> show.Painted:
    return show.Painted(one.state, "green" if one.state == "active" else "red")


def show_(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show one key, all but its secret, which nobody has.

    Example:
        tollway keys show ci
    """
    loaded = load_config(config)
    edits.require_known(loaded, "keys", name)
    one = _shown(loaded, name, Books(loaded))
    if as_json:
        show.emit(one)
        return
    show.pairs(
        [
            ("key", one.name),
            ("hint", one.hint),
            ("state", _painted(one)),
            ("user", one.user or ""),
            ("project", one.project or ""),
            ("team", one.team or ""),
            ("expires", str(one.expires or "")),
            ("revoked", str(one.revoked or "")),
            ("old secret", f"works until {show.turn(one.grace_until)}" if one.grace_until else ""),
            ("models", ", ".join(one.models) or "what the levels above it allow"),
            ("budget", block(one.budgets)),
            ("limits", limits.block(one.limits)),
        ]
    )


def rotate(
    name: Name,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="How long the old secret still works.")
    ] = "24h",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Give a key another secret, and show that once.

    The old one works on for the grace, so that nothing stops while the new one is handed out;
    `--grace 0s` ends it now.

    Example:
        tollway keys rotate ci --grace 24h
    """
    loaded = load_config(config)
    edits.require_known(loaded, "keys", name)
    key = loaded.keys[name]
    if (state := _state(loaded, key)) != "active":
        raise edits.Conflict(f"The key {shown.value(name)} is {state}", hint=_instead(loaded, name))
    grace_s = _grace(grace)
    secret, fields = _new_secret()
    now = datetime.now(UTC)
    until = now.replace(microsecond=0) + timedelta(seconds=grace_s)
    kept = [(old.hash, datetime.fromtimestamp(old.until, UTC)) for old in key.previous]
    kept = [(digest, min(end, until)) for digest, end in kept if end > now and grace_s]
    kept += [(key.hash, until)] if grace_s else []
    values = {**fields, "previous": _previous(kept)}
    done = edits.apply(loaded.path, edits.put("keys", name, values), what=f"keys rotate {name}")
    if not as_json:
        _hand_over(name, secret)
        show.note(
            f"The old one works until {show.turn(until.timestamp())}"
            if grace_s
            else "The old one has ended"
        )
    facts = {"name": name, "key": secret, "hint": fields["hint"]}
    ends = {"grace_until": until.timestamp() if grace_s else None}
    edits.report(done, facts | ends, ("keys", name), as_json=as_json)


def _grace(said: str) -> float:
    try:
        found = float(units.seconds(said))
    except units.WrongUnit as fault:
        raise UsageProblem(f"`--grace`: {fault}") from fault
    if found > _LONGEST_GRACE_S:
        raise UsageProblem("`--grace` is over 90 days", hint="Two keys serve better then")
    return found


def _previous(kept: list[tuple[str, datetime]]) -> list[dict[str, object]] | None:
    return [{"hash": digest, "until": until} for digest, until in kept] or None


def revoke(
    name: Name,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove it from the file too; its calls stay.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """End a key now, confirmed by the running daemon.

    Calls that it has in flight end as they would. The key stays in the file with the date, so
    that its name keeps its meaning; what it spent stays in the ledger either way.

    Example:
        tollway keys revoke ci
    """
    loaded = load_config(config)
    edits.require_known(loaded, "keys", name)
    key = loaded.keys[name]
    day = key.revoked or _today(loaded)
    alter = edits.drop("keys", name) if delete else edits.put("keys", name, {"revoked": day})
    done = edits.apply(loaded.path, alter, what=f"keys revoke {name}")
    if not as_json:
        _told(name, key, done, delete=delete)
    facts = {"name": name, "revoked": day, "deleted": delete}
    edits.report(done, facts, ("keys", name), as_json=as_json)


def _told(name: str, key: Key, done: edits.Done, *, delete: bool) -> None:
    if done.refused is not None:
        edits.warn(f"`{name}` STILL WORKS at the running daemon")
    elif delete:
        show.note(f"The key `{name}` is removed")
    elif done.changed:
        show.note(f"The key `{name}` is revoked")
    else:
        show.note(f"The key `{name}` was revoked on {key.revoked} already")
