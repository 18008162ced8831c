"""`run`: a program whose model calls go through the gateway, and what they cost."""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from hashlib import sha256
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import typer

from tollway.cli import complete, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import Control, convert, load_config
from tollway.cli.edits import hint, warn
from tollway.cli.options import AsKey, ConfigFile
from tollway.cli.run_agents import AGENTS, CLAUDE, CODEX, agent_of
from tollway.cli.run_child import child, signals_held
from tollway.cli.run_env import KEY, Gateway, launch
from tollway.cli.run_gemini import agent_settings
from tollway.cli.run_models import Models, past
from tollway.cli.run_place import place
from tollway.cli.run_reach import unreachable
from tollway.cli.start import ensure_up
from tollway.daemon.config import shown, units
from tollway.daemon.config.check import tag_value_wrong, tag_wrong
from tollway.daemon.config.schema import Config
from tollway.daemon.errors import DaemonUnreachable
from tollway.providers.catalog import KINDS
from tollway.providers.errors import GatewayError

_BEAT_S = 0.5  # after a daemon's death the next one learns of the run that much later
# By which the daemon tells a run that it does not know yet from any other key.
_SECRET = "tw-run-"  # noqa: S105 - what follows it is the secret
_OWN_TAG = "run"
# For a restart that the run's end falls into: no daemon answers for a moment.
_END_WITHIN_S = 3.0
_AGAIN_S = 0.1
_ELSEWHERE = (
    "A program is not led here that has another address or key in its own settings, nor are Codex"
    " and Gemini CLI behind a script: they are under their own names alone (`tollway run -- codex`)"
)
_DIALECTS = {CLAUDE: "anthropic_messages", CODEX: "openai_responses"}

Command = Annotated[
    list[str], typer.Argument(metavar="COMMAND...", help="The program and its own options.")
]


class Line(msgspec.Struct):
    """What a run used at one target; money is nano-dollars."""

    target: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_nanousd: int
    estimated_nanousd: int
    unpriced: int
    notional_nanousd: int | None = None


class Ended(msgspec.Struct):
    """What the daemon says of a run that has ended."""

    targets: list[Line]
    cost_nanousd: int
    running: int
    refused: int
    refusal: str
    budget_nanousd: int | None
    left_nanousd: int | None
    spent: bool = False  # its budget had no room for a call
    hint: str = ""  # what to do about the refusal


class Session:
    """A run at the daemon. Its secret is known here and to the program alone."""

    def __init__(
        self, control: Control, key: str | None, tags: dict[str, str], budget: int | None
    ) -> None:
        self.id = f"{datetime.now(UTC):%y%m%d}-{secrets.token_hex(4)}"
        self.secret = f"{_SECRET}{secrets.token_hex(32)}"
        self._control = control
        digest = sha256(self.secret.encode()).hexdigest()
        said = {"id": self.id, "hash": f"sha256:{digest}", "key": key, "tags": tags}
        self._asked = said | {"budget_nanousd": budget}

    def keep(self) -> None:
        """Have the daemon know of it for a while.

        Raises:
            GatewayError: The daemon refuses it, or does not answer.
        """
        self._control.post("/control/runs", self._asked)

    def beat(self) -> None:
        """Keep it, where the daemon answers; the next beat may find one that does."""
        with contextlib.suppress(GatewayError):
            self._control.post("/control/runs", self._asked, timeout_s=2)

    def end(self) -> Ended:
        """Revoke its secret and return what it came to.

        Raises:
            GatewayError: The daemon does not answer, or does not know of it.
        """
        gives_up_s = time.monotonic() + _END_WITHIN_S
        while True:
            self.beat()  # a daemon that began since the last one may not know of it yet
            try:
                answer = self._control.post(f"/control/runs/{self.id}/end", timeout_s=30)
                return convert(answer, Ended)
            except DaemonUnreachable:
                if time.monotonic() >= gives_up_s:
                    raise
            time.sleep(_AGAIN_S)


_ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="What the agent asks for.",
        autocompletion=complete.callables,
    ),
]
_OwnLoginOption = Annotated[
    bool | None,
    typer.Option(
        "--own-login/--no-own-login",
        help="Keep the agent's own login: a subscription; else where a provider says so.",
    ),
]


def run(  # noqa: PLR0913 - an argument is an option
    command: Command,
    *,
    model: _ModelOption = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="USD", help="The most that this run may cost: 2.50."),
    ] = None,
    key: AsKey = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="May be repeated.")
    ] = None,
    own_login: _OwnLoginOption = None,
    config: ConfigFile = None,
) -> None:
    """Run an agent or a script through the gateway, and show what it cost.

    Claude Code, Codex, Gemini CLI and opencode are led here by what each needs, anything else by
    the variables of the OpenAI, Anthropic and Google libraries. The program gets a key of its own,
    which ends with it; its calls have the tags `project`, `branch` and `run`. The daemon is
    started where none runs. Signals and the exit code pass through.

    Examples:
        tollway run -- claude
        tollway run --budget 2 --model smart -- codex exec "fix the tests"
        tollway run -- python script.py
    """
    loaded = load_config(config)
    program = shutil.which(command[0])
    if program is None:
        raise _no_program(command[0], loaded)
    cap, tags = _cap(budget), {**place(Path.cwd()), **_tags(tag)}
    own = _keeps_login(loaded, command) if own_login is None else own_login
    started = ensure_up(loaded)
    if not started.already_running:
        show.note(f"Started the daemon, which listens at {started.url}")
    control = Control(loaded.admin_socket)
    session, url = Session(control, key, tags, cap), _reached_at(started.url)
    with _known(session):
        models = Models(control, session.secret)
        window = None if model is None else models.window(model, agent_of(command))
        gateway = Gateway(url, session.secret, model, own, cap is not None, window)
        made = launch(command, os.environ, gateway)
        lacking = past(command) or ("" if model else models.lacking(command, os.environ))
    with agent_settings(command, os.environ, gateway) as more, signals_held():
        session.keep()
        try:
            _begun(session, tags, cap)
            _not_used(os.environ.get(KEY, ""), key, single_user=loaded.server.single_user)
            if lacking:
                warn(lacking)
            _doubt(url)
            code = child(program, made.words, made.env | more, session.beat, _BEAT_S)
        finally:
            _report(session, lacking, known=bool(agent_of(command)))
    raise typer.Exit(code)


def _no_program(name: str, config: Config) -> UsageProblem:
    """Return what to say of a word that starts nothing: a slip, an agent that is not here, a model.

    Other programs run models.
    """
    if name in {*config.routes, *config.models, *(f"local/{one}" for one in config.models)}:
        asked = name if name in config.routes or "/" in name else f"local/{name}"
        return UsageProblem(
            f"There is no program `{name}`", hint=f"`tollway chat {asked}` talks with that model"
        )
    if agent_of([name]):
        return UsageProblem(
            f"There is no program `{name}`",
            hint=f"Install it, or put its folder in $PATH, where `{name}` alone starts it too",
        )
    return UsageProblem(
        f"There is no program `{name}`{shown.meant(name, AGENTS)}",
        hint="`tollway run -- COMMAND` starts one",
    )


@contextlib.contextmanager
def _known(session: Session) -> Iterator[None]:
    """Have the daemon know of a run; not for long where it cannot begin."""
    session.keep()
    try:
        yield
    except GatewayError:
        with contextlib.suppress(GatewayError):
            session.end()
        raise


def _cap(said: str | None) -> int | None:
    if said is None:
        return None
    try:
        cap = units.nanousd(Decimal(said.removeprefix("$")))
    except (InvalidOperation, units.WrongUnit) as fault:
        raise UsageProblem(f"`--budget {said}` is no amount of dollars", hint="Such as 2.50") from (
            fault
        )
    if not cap:
        raise UsageProblem("`--budget 0` lets nothing be called", hint="Such as 2.50")
    return cap


def _tags(said: Sequence[str] | None) -> dict[str, str]:
    found = {}
    for text in said or ():
        name, _, value = text.partition("=")
        if why := tag_wrong(name) or tag_value_wrong(value):
            raise UsageProblem(f"`--tag {text}`: {why}", hint="Such as `--tag ticket=OPS-12`")
        if name == _OWN_TAG:
            raise UsageProblem(
                f"`--tag {text}`: this tag is the run's own number",
                hint="Name another, such as `--tag job=42`",
            )
        found[name] = value
    return found


def _keeps_login(config: Config, command: Sequence[str]) -> bool:
    """Whether the first provider that speaks an agent's dialect wants the caller's credential."""
    dialect = _DIALECTS.get(agent_of(command), "")
    for provider in config.providers.values():
        if KINDS[provider.kind].speaks(dialect):
            return provider.auth == "caller"
    return False


def _reached_at(url: str) -> str:
    """Return the gateway's own URL, as this box reaches it."""
    parts = urlsplit(url)
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - to be replaced
    host = anywhere.get(parts.hostname or "", "")
    place = f"{host}:{parts.port}" if host else parts.netloc
    return f"{parts.scheme}://{place}"


def _doubt(url: str) -> None:
    """Say before the program starts that it cannot reach the gateway, and what helps."""
    why, helps = unreachable(url)
    if why:
        warn(why)
    if helps:
        hint(helps)


# --- what is said of it -------------------------------------------------------------------------


def _begun(session: Session, tags: dict[str, str], cap: int | None) -> None:
    facts = [f"run {session.id}", *(f"{name} {value}" for name, value in tags.items())]
    facts += [] if cap is None else [f"at most {show.money(cap)}"]
    show.note(show.Painted(f"tollway: {' · '.join(facts)}", "dim"))


def _not_used(secret: str, key: str | None, *, single_user: bool) -> None:
    """Say of a key in the environment, which a person may have meant, that it is not this run's."""
    if secret.startswith(_SECRET):
        what = f"${KEY} is of the run around this one, whose budget does not count this run"
    elif key is not None:
        return  # it was said whose calls they are
    elif single_user:
        what = f"${KEY} is not used: this gateway has no keys"
    else:
        what = f"${KEY} is not used: this run is the owner's; `--as NAME` bills it to a key"
    if secret:
        show.note(show.Painted(f"tollway: {what}", "dim"))


def _report(session: Session, lacking: str, *, known: bool) -> None:
    """End the run and say what it came to; the program's exit code stands whatever happens.

    `lacking` is what was said before it began: an interactive agent has had the screen since.
    Where the program is no agent that is `known`, one that it started may have gone elsewhere.
    """
    try:
        ended = session.end()
    except GatewayError as error:
        warn(f"What run {session.id} cost is not known here: {error.message}")
        show.note(f"`tollway logs` has its calls, with the tag run={session.id}")
        return
    for line in summary(ended):
        show.note(line)
    said = lacking or ended.hint
    if ended.refused and said:
        hint(said)
    elif not ended.targets and (lacking or not known):
        hint(lacking or _ELSEWHERE)


def summary(ended: Ended) -> Iterator[show.Cell]:
    """Yield the lines that say what a run came to."""
    if not ended.targets and not ended.refused:
        yield show.Painted("tollway: no calls", "dim")
        return
    calls = sum(one.calls for one in ended.targets)
    tokens_in = sum(one.input_tokens for one in ended.targets)
    tokens_out = sum(one.output_tokens for one in ended.targets)
    facts = [show.money(ended.cost_nanousd), show.counted(calls, "call")]
    facts.append(f"{show.counted_short(tokens_in, 'token')} in, {show.tokens(tokens_out)} out")
    if ended.budget_nanousd is not None:
        facts.append(_budget(ended, ended.budget_nanousd))
    yield f"tollway: {' · '.join(facts)}"
    width = max((len(one.target) for one in ended.targets), default=0)
    for one in ended.targets:
        yield show.Painted(f"  {one.target.ljust(width)}  {_line(one)}", "dim")
    if ended.running:
        left = show.counted(ended.running, "call has", "calls have")
        yield [show.Painted("warning", "yellow"), f": {left} not ended yet"]
    if ended.refused:
        refused = show.counted(ended.refused, "call was", "calls were")
        what = f": {refused} refused or failed; the last one: {ended.refusal}"
        yield [show.Painted("warning", "yellow"), what]


def _budget(ended: Ended, cap: int) -> str:
    if ended.spent:
        return f"budget reached: {show.money(ended.cost_nanousd)} of {show.money(cap)}"
    return f"{show.money(ended.left_nanousd)} of {show.money(cap)} left"


def _line(one: Line) -> str:
    facts = [show.counted(one.calls, "call"), f"{show.tokens(one.input_tokens)} in"]
    facts.append(f"{show.tokens(one.output_tokens)} out")
    cost = show.money(one.cost_nanousd)
    if one.notional_nanousd is not None:
        cost = f"your own account; {show.money(one.notional_nanousd)} at list price"
    elif one.unpriced:
        cost += ", some of it without a price"
    elif one.estimated_nanousd:
        cost += f", {show.money(one.estimated_nanousd)} of it estimated"
    return ", ".join([*facts, cost])
