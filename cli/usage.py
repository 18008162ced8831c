"""`usage`: a member's own use and what is left, over HTTP with its key, from any machine."""

import http.client
import ssl
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from typing import Annotated
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo

import msgspec
import typer

from tollway.cli import edits, limits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import Control, load_config, refusal
from tollway.cli.limits import Limit
from tollway.cli.options import AsJson, ConfigFile
from tollway.daemon.config.units import nanousd
from tollway.daemon.errors import ConfigError, DaemonUnreachable
from tollway.providers.errors import GatewayError

_WITHIN_S = 15.0
_MOST_BYTES = 16 * 2**20
_OTHER_NAME = (62, 64)  # OpenSSL's codes for a certificate of another host, or address
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Model(msgspec.Struct):
    """The use of one model; tokens of every class stand in the answer for `--json`."""

    provider: str
    model: str
    calls: int
    cost_usd: str
    unpriced: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_output_tokens: int = 0
    image_output_tokens: int = 0

    @property
    def cached(self) -> int:
        """Tokens that were read from a cache."""
        return self.cache_read_tokens

    @property
    def input_total(self) -> int:
        """All tokens that went in."""
        written = self.cache_write_tokens + self.cache_write_1h_tokens
        media = self.audio_input_tokens + self.image_input_tokens
        return self.input_tokens + self.cache_read_tokens + written + media

    @property
    def output_total(self) -> int:
        """All tokens that came out."""
        media = self.audio_output_tokens + self.image_output_tokens
        return self.output_tokens + self.reasoning_tokens + media


class Span(msgspec.Struct):
    """The use of one stretch of time."""

    calls: int
    refused: int
    cost_usd: str
    models: list[Model]


class Used(msgspec.Struct):
    """The answer of GET /v1/tollway/usage."""

    caller: dict[str, str]
    of: dict[str, str]
    timezone: str
    today: Span
    month: Span


class Budget(msgspec.Struct):
    """One budget of GET /v1/tollway/budgets."""

    scope: str
    name: str
    budget: str
    at: str
    rolling: bool
    limit_usd: str
    settled_usd: str
    held_usd: str
    left_usd: str
    turns_over: str | None


class Left(msgspec.Struct):
    """The answer of GET /v1/tollway/budgets."""

    budgets: list[Budget]
    limits: list[Limit] = []
    timezone: str = "UTC"  # in which they turn over


def usage(
    url: Annotated[
        str | None,
        typer.Option(
            "--url", envvar="TOLLWAY_URL", metavar="URL", help="Of the gateway; else here."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", envvar="TOLLWAY_KEY", metavar="KEY", help="Yours; better in $TOLLWAY_KEY."
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show your own use and what is left, over HTTP with your key.

    Today and this month by model, and the budgets and limits that your calls must keep. Works
    from any machine that reaches the gateway; without --url it asks the gateway of this box. The
    key is best in $TOLLWAY_KEY: what is typed can be seen by others on the machine.

    Example:
        tollway usage --url https://gateway.example
    """
    asked = _Asked(_base(url) if url else _here(config), key)
    used, left = asked.get("/v1/tollway/usage"), asked.get("/v1/tollway/budgets")
    if as_json:
        show.emit({"usage": used, **{name: left.get(name) for name in ("budgets", "limits")}})
        return
    try:
        _tell(msgspec.convert(used, Used), msgspec.convert(left, Left))
    except msgspec.ValidationError as fault:
        raise _stranger(asked.shown) from fault


class _Asked:
    """The gateway at a URL, asked with a key."""

    def __init__(self, base: SplitResult, key: str | None) -> None:
        self._base = base
        self._key = key
        self.shown = f"{base.scheme}://{base.netloc}"
        if key and base.scheme == "http" and base.hostname not in _LOOPBACK:
            edits.warn(f"your key goes to `{base.hostname}` unencrypted")

    def get(self, path: str) -> dict[str, object]:
        """Return what the gateway answers.

        Raises:
            DaemonUnreachable: Nobody answers there.
            GatewayError: It refuses, in its words; or what answers is no Tollway.
        """
        status, body = self._answer(path)
        if status == 404:
            raise _stranger(self.shown)
        if status >= 400:
            error = refusal(status, body)
            if status == 401 and not self._key:
                error.hint = "`--key` or $TOLLWAY_KEY says whose use it is"
            raise error
        try:
            found = msgspec.json.decode(body) if status == 200 else None
        except msgspec.DecodeError:
            found = None
        if not isinstance(found, dict):
            raise _stranger(self.shown)
        return found

    def _other_scheme(self) -> str:
        other = "https" if self._base.scheme == "http" else "http"
        return f"Is it `{other}://{self._base.netloc}`?"

    def _answer(self, path: str) -> tuple[int, bytes]:
        host = self._base.hostname or ""
        kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
        if self._base.scheme == "https":
            kind = http.client.HTTPSConnection
        headers = {"accept": "application/json"}
        if self._key:
            headers["x-tollway-key"] = self._key
        try:
            with closing(kind(host, self._base.port, timeout=_WITHIN_S)) as connection:
                connection.request("GET", self._base.path + path, headers=headers)
                answer = connection.getresponse()
                return answer.status, answer.read(_MOST_BYTES)
        except ssl.SSLError as fault:
            why = str(getattr(fault, "verify_message", "") or fault.reason or "no TLS").rstrip(".")
            raise DaemonUnreachable(
                f"`{self.shown}` cannot be trusted: {why}", hint=_trusts(fault)
            ) from fault
        except http.client.RemoteDisconnected as fault:
            raise DaemonUnreachable(
                f"`{self.shown}` answers nothing", hint=self._other_scheme()
            ) from fault
        except (OSError, http.client.HTTPException, ValueError) as fault:
            why = getattr(fault, "strerror", None) or type(fault).__name__
            raise DaemonUnreachable(
                f"No gateway answers at `{self.shown}`: {why}",
                hint="`--url` or $TOLLWAY_URL says where it is",
            ) from fault


def _stranger(where: str) -> GatewayError:
    return GatewayError(
        f"What answers at `{where}` is no Tollway, or an older one",
        hint="`--url` names the gateway itself, such as `http://127.0.0.1:4141`",
    )


def _base(url: str) -> SplitResult:
    """Return a gateway's URL without the `/v1` that clients want.

    Raises:
        UsageProblem: It is no URL of a web server.
    """
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.username is not None or parts.query or parts.fragment:
        raise UsageProblem("`--url` is no URL of a gateway", hint="Such as http://127.0.0.1:4141")
    return parts._replace(path=parts.path.rstrip("/").removesuffix("/v1").rstrip("/"))


def _trusts(fault: ssl.SSLError) -> str:
    """Return what makes a certificate be trusted, "" where something else is wrong."""
    if not isinstance(fault, ssl.SSLCertVerificationError):
        return "Does it speak HTTPS? Else `--url` begins with `http://`"
    if fault.verify_code in _OTHER_NAME:
        return "`--url` must have a name that the gateway's certificate has"
    return "`SSL_CERT_FILE=ca.pem tollway usage ...` trusts who has signed its certificate"


def _here(config: ConfigFile) -> SplitResult:
    """Return where the gateway of this box listens.

    Raises:
        ConfigError: There is no gateway here.
        DaemonUnreachable: It does not run.
    """
    try:
        loaded = load_config(config)
    except ConfigError as error:
        hint = f"{error.hint}\n" if error.hint else ""
        error.hint = f"{hint}`--url` or $TOLLWAY_URL names a gateway elsewhere"
        raise
    status = Control(loaded.admin_socket).get("/control/status")
    return _base(str(status["url"]))


def _tell(used: Used, left: Left) -> None:
    who = [f"{kind} {name}" for kind, name in used.caller.items() if name]
    of = f"{used.of['scope']} {used.of['name']}"
    whose = [] if who == [of] else [f"{', '.join(who)}: "]
    show.note(f"{''.join(whose)}the use of {of}, in {used.timezone}")
    numbers = [show.Column(name, number=True) for name in ("calls", "in", "cached", "out", "cost")]
    rows: list[list[show.Cell]] = []
    for word, span in (("today", used.today), ("month", used.month)):
        rows += [_row(word, model) for model in span.models]
        refused = f"{span.refused} refused" if span.refused else ""
        total = ["total", show.tokens(span.calls), "", "", "", _money(span.cost_usd), refused]
        rows.append([word, *(show.Painted(cell, "bold") for cell in total)])
    show.table(["when", "model", *numbers, "notes"], rows)
    if left.budgets:
        show.say()
        _budgets(left.budgets, ZoneInfo(left.timezone))
    limits.table(left.limits)


def _row(word: str, model: Model) -> list[show.Cell]:
    unpriced = bool(model.unpriced and model.cost_usd == "0")
    return [
        word,
        f"{model.provider}/{model.model}",
        show.tokens(model.calls),
        show.tokens(model.input_total),
        show.tokens(model.cached),
        show.tokens(model.output_total),
        "unpriced" if unpriced else _money(model.cost_usd),
        f"{model.unpriced} unpriced" if model.unpriced and not unpriced else "",
    ]


def _budgets(budgets: list[Budget], zone: ZoneInfo) -> None:
    numbers = [
        show.Column(name, number=True) for name in ("limit", "spent", "held", "left", "used")
    ]
    show.table(
        ["budget of", "budget", *numbers, "turns over"],
        [
            (
                f"{one.scope} {one.name}".strip(),
                one.budget if one.at == "hard" else f"{one.budget} ({one.at})",
                *(
                    _money(usd)
                    for usd in (one.limit_usd, one.settled_usd, one.held_usd, one.left_usd)
                ),
                show.percent(_nano(one.settled_usd) + _nano(one.held_usd), _nano(one.limit_usd)),
                _turns_over(one, zone),
            )
            for one in budgets
        ],
    )


def _turns_over(budget: Budget, zone: ZoneInfo) -> str:
    if budget.turns_over is None:
        return "never"
    at = datetime.fromisoformat(budget.turns_over).timestamp()
    return "rolls on" if budget.rolling else show.turn(at, zone)


def _nano(usd: str) -> int:
    return nanousd(Decimal(usd))


def _money(usd: str) -> str:
    return show.money(_nano(usd))
