"""`status` and `reload`: what runs, and under which configuration."""

from contextlib import suppress

import msgspec

from tollway.cli import edits, health, limits, queues, show
from tollway.cli.broken import find
from tollway.cli.control import convert, load_config, reach, require_same_file, version_note
from tollway.cli.health import Provider
from tollway.cli.limits import Limit
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.queues import Queue
from tollway.daemon.config.paths import find_config
from tollway.daemon.errors import ConfigError

_STATES: dict[str, show.Colour] = {"ok": "green", "broken": "red", "pending": "yellow"}

_ALERTS = 5  # of the latest; `--json` has more


class Configuration(msgspec.Struct):
    """How the file on disk stands to what is served."""

    path: str
    state: str
    loaded_at: float
    problem: str = ""
    hint: str = ""
    needs_restart: list[str] = []


class Ledger(msgspec.Struct):
    """The ledger's health."""

    path: str
    problem: str | None = None
    backlog: int = 0
    recovered: int = 0


class Calls(msgspec.Struct):
    """Calls in flight, ended since the start, and what the last minute came to."""

    active: int = 0
    served: int = 0
    streams: int = 0
    waiting: int = 0
    calls_a_minute: int = 0
    input_a_minute: int = 0
    output_a_minute: int = 0
    nanousd_a_minute: int = 0


class Loop(msgspec.Struct, frozen=True):
    """How often and how long the event loop stood still, in seconds."""

    stalls: int = 0
    stalled_s: float = 0.0
    longest_s: float = 0.0
    last_at: float = 0.0


class Model(msgspec.Struct):
    """A local model; memory in bytes."""

    name: str
    state: str
    rss_bytes: int = 0
    running: int = 0
    waiting: int = 0
    tokens_per_s: float | None = None
    problem: str = ""


class Budget(msgspec.Struct):
    """A budget as it stands; money in nano-dollars, `ends_ms` unix milliseconds."""

    scope: str
    name: str
    budget: str
    limit_nanousd: int
    settled_nanousd: int
    held_nanousd: int
    left_nanousd: int
    ends_ms: int
    rolling: bool = False


class Alert(msgspec.Struct):
    """Something that the owner was told; `at` is unix seconds."""

    at: float
    text: str


class Status(msgspec.Struct):
    """What this command shows of the daemon's answer; `--json` prints the answer itself."""

    version: str
    pid: int
    uptime_s: float
    url: str
    config: Configuration
    ledger: Ledger
    calls: Calls = msgspec.field(default_factory=Calls)
    draining: bool = False
    connections: int = 0
    loop: Loop = Loop()
    models: list[Model] = []
    queues: list[Queue] = []
    providers: list[Provider] = []
    budgets: list[Budget] = []
    limits: list[Limit] = []
    spend_today_nanousd: int | None = None
    alerts: list[Alert] = []
    problems: list[str] = []


class Reloaded(msgspec.Struct):
    """What a reload did: the keys whose values changed, and those that name something else now.

    `since` is when what was served before was read, by the watch or a reload.
    """

    changed: list[str]
    renewed: list[str] = []
    since: float | None = None


def status(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show what runs.

    Uptime, configuration, calls, models, who waits for a slot, which providers and keys fail or
    rest, budgets, what was spent today, and problems. Exits with 3 where no daemon answers.

    Example:
        tollway status --json
    """
    answer = reach(config).get("/control/status")
    if as_json:
        show.emit(answer)
        return
    if other := version_note(answer):
        show.note([show.Painted("warning", "yellow"), f": {other}"])
    now = convert(answer, Status)
    drains = ", draining" if now.draining else ""
    show.pairs(
        [
            ("daemon", f"{now.version}, pid {now.pid}, up {show.duration(now.uptime_s)}{drains}"),
            ("url", now.url),
            ("config", show.place(now.config.path)),
            ("", [_state(now.config), f", loaded {show.age(now.config.loaded_at)}"]),
            ("ledger", f"{show.place(now.ledger.path)}{_ledger(now.ledger)}"),
            ("calls", _calls(now.calls)),
            ("last minute", _minute(now.calls)),
            ("clients", show.counted(now.connections, "connection")),
            ("today", show.money(now.spend_today_nanousd)),
        ]
    )
    if now.loop.stalls:
        lost = show.counted(now.loop.stalls, "time")
        lost += f", {show.duration(now.loop.longest_s)} at the longest"
        ended = show.age(now.loop.last_at)
        show.say(
            [show.Painted("stalls", "yellow"), f": the event loop stood still {lost}, {ended}"]
        )
    _models(now.models)
    queues.table(now.queues)
    health.table(now.providers)
    _budgets(now.budgets)
    limits.table([one for one in now.limits if one.left != one.most])
    for alert in now.alerts[-_ALERTS:]:
        show.say([show.Painted("alert", "yellow"), f": {show.when(alert.at)}  {alert.text}"])
    for problem in now.problems:
        for line in problem.splitlines():
            show.say([show.Painted("problem", "red"), f": {line}"])
    if now.config.hint:
        show.note(f"hint: {now.config.hint}")


def _state(config: Configuration) -> show.Painted:
    return show.Painted(config.state, _STATES.get(config.state, "dim"))


def _calls(calls: Calls) -> str:
    facts = [
        f"{count} {word}"
        for count, word in ((calls.streams, "streamed"), (calls.waiting, "waiting"))
        if count
    ]
    told = f" ({', '.join(facts)})" if facts else ""
    return f"{calls.active} in flight{told}, {calls.served} since the start"


def _minute(calls: Calls) -> str:
    if not calls.calls_a_minute and not calls.output_a_minute:
        return ""
    return (
        f"{show.counted(calls.calls_a_minute, 'call')},"
        f" {show.counted_short(calls.input_a_minute, 'token')} in,"
        f" {show.tokens(calls.output_a_minute)} out, {show.money(calls.nanousd_a_minute)}"
    )


def _ledger(ledger: Ledger) -> str:
    facts = []
    if ledger.backlog:
        facts.append(show.counted(ledger.backlog, "row waits", "rows wait"))
    if ledger.recovered:
        facts.append(f"{show.counted(ledger.recovered, 'call')} recovered at the start")
    return f" ({', '.join(facts)})" if facts else ""


def _models(models: list[Model]) -> None:
    if not models:
        return
    show.say()
    numbers = [show.Column(name, number=True) for name in ("memory", "running", "tokens/s")]
    show.table(
        ["model", "state", *numbers, "problem"],
        [
            (
                model.name,
                model.state,
                show.size(model.rss_bytes or None),
                f"{model.running}" + (f"+{model.waiting}" if model.waiting else ""),
                "" if model.tokens_per_s is None else f"{model.tokens_per_s:.1f}",
                model.problem,
            )
            for model in models
        ],
    )


def _budgets(budgets: list[Budget]) -> None:
    if not budgets:
        return
    show.say()
    numbers = [show.Column(name, number=True) for name in ("spent", "held", "left", "used")]
    show.table(
        ["budget of", "budget", *numbers, "turns over"],
        [
            (
                f"{one.scope} {one.name}".strip(),
                one.budget,
                show.money(one.settled_nanousd),
                show.money(one.held_nanousd),
                show.money(one.left_nanousd),
                show.percent(one.settled_nanousd + one.held_nanousd, one.limit_nanousd),
                _renews(one),
            )
            for one in budgets
        ],
    )


def _renews(budget: Budget) -> str:
    if budget.budget.endswith("/total"):
        return "never"
    # What stops counting at that moment is a part of it alone.
    return "rolls on" if budget.rolling else show.turn(budget.ends_ms / 1000)


def reload(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Make the daemon read gateway.toml again.

    All of the new file or nothing of it: where it is wrong, each mistake is one line, the old
    configuration stays in force, and the command exits with 2. Calls in flight end under the
    configuration that they began with. Named are the keys whose values changed in the file, those
    that name something else now (a renewed certificate, another secret), and targets without a
    price that a changed budget refuses.

    Example:
        tollway reload
    """
    control = reach(config)
    with suppress(ConfigError):  # of a file that is gone the reload itself says more
        served = convert(control.get("/control/status"), Status).config.path
        require_same_file(served, find_config(config))
    try:
        answer = control.post("/control/reload", timeout_s=60)
    except ConfigError:
        find(config)  # of a file that is gone it says more than the daemon does
        raise
    if as_json:
        show.emit(answer)
        return
    done = convert(answer, Reloaded)
    for key in done.changed:
        show.say(f"changed  {key}")
    for key in done.renewed:
        show.say(f"renewed  {key}")
    if not done.changed and not done.renewed:
        # A daemon that an older version started does not say when.
        last = f" since it was last read, {show.age(done.since)}" if done.since else ""
        show.note(f"Reloaded; nothing changed{last}")
    edits.tell_waiting(answer)
    if any(key.endswith(".budget") for key in done.changed):
        from tollway.cli.budget_prices import doubts  # noqa: PLC0415 - reads the price data

        for line in doubts(load_config(config), done.changed):
            edits.warn(line)
