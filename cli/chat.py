"""`chat`: one question, or a conversation, over the daemon's own socket."""

import sys
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from tollway.cli import show
from tollway.cli.answer import Ask, Message, Said, hear
from tollway.cli.boundary import UsageProblem, show_error
from tollway.cli.control import Control, reach
from tollway.cli.options import AsJson, ConfigFile
from tollway.daemon.errors import NotFound
from tollway.providers.errors import GatewayError
from tollway.providers.money import plain_usd

_COMMANDS = (
    ("/model NAME", "ask another model from here on"),
    ("/clear", "forget what was said"),
    ("/quit", "end; so does Ctrl-D. Ctrl-C stops an answer"),
)


class Settings(msgspec.Struct):
    """What holds for every answer of a conversation."""

    model: str
    system: str | None
    max_tokens: int | None
    temperature: float | None

    def ask(self, turns: Sequence[Message]) -> Ask:
        """Return the request for what was said so far."""
        system = [Message("system", self.system)] if self.system else []
        unset = msgspec.UNSET
        return Ask(
            self.model,
            [*system, *turns],
            max_completion_tokens=unset if self.max_tokens is None else self.max_tokens,
            temperature=unset if self.temperature is None else self.temperature,
        )


class _Budget(msgspec.Struct):
    scope: str
    name: str
    budget: str
    left_nanousd: int


class _Target(msgspec.Struct):
    target: str
    price: str  # "" for none


class _Applies(msgspec.Struct):
    budgets: list[_Budget] = []
    targets: list[_Target] = []

    @property
    def left(self) -> _Budget | None:
        """The budget with the least left for the owner's calls, None where none applies."""
        return min(self.budgets, key=lambda budget: budget.left_nanousd, default=None)

    def unpriced(self, said: Said) -> bool:
        """Whether an answer cost nothing because its target has no price."""
        named = any(one.target == said.target and not one.price for one in self.targets)
        return named and not said.cost_nanousd


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


def chat(  # noqa: PLR0913, PLR0917 - each is an option that people type
    first: Annotated[
        str | None,
        typer.Argument(metavar="ROUTE", help="Whom to ask; else the first route or model."),
    ] = None,
    second: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The question, which may stand alone.")
    ] = None,
    config: ConfigFile = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="What to ask.")
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="How it should be.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="How free.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model one question, or talk with it.

    The answer goes to stdout as it comes; speed, cost and what is left to spend to stderr. A
    question may come from a pipe, or be followed by what does. With no question at a terminal a
    conversation begins. One word alone is a question, unless it is a route or model by name.

    Examples:
        tollway chat "What is a toll?"
        git diff | tollway chat fast "Review this"
    """
    control = reach(config)
    name, words = _grammar(control, model, first, second)
    piped = "" if sys.stdin.isatty() else sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    prompt = "\n\n".join(part for part in (words, piped) if part)
    settings = Settings(name, system, max_tokens, temperature)
    if prompt:
        _once(control, settings, prompt, as_json=as_json)
    elif as_json or not sys.stdin.isatty():
        raise UsageProblem("There is nothing to ask", hint='`tollway chat "hello"` asks something')
    else:
        Conversation(control, settings).run()


def _grammar(
    control: Control, model: str | None, first: str | None, second: str | None
) -> tuple[str, str]:
    """Return whom to ask and what, "" for nothing yet.

    Raises:
        UsageProblem: Two models are named.
    """
    if model is not None:
        if second is not None:
            raise UsageProblem(
                f"Two models are named: `{first}` and `{model}`", hint="Leave one out"
            )
        return model, first or ""
    if first is not None and second is not None:
        return first, second
    names = [one.id for one in msgspec.convert(control.get("/v1/models"), _Models).data]
    if first in names:
        return str(first), ""
    if not names:
        raise NotFound(
            "There is no model to ask: gateway.toml has no route and no local model",
            hint="`tollway models add` registers a GGUF file; `--model PROVIDER/MODEL` names one",
        )
    show.note(show.Painted(f"Asking {names[0]}", "dim"))
    return names[0], first or ""


def _once(control: Control, settings: Settings, prompt: str, *, as_json: bool) -> None:
    said = Said(settings.model)
    if as_json:
        hear(control, settings.ask([Message("user", prompt)]), said, lambda _text: None)
        applies = _applies(control, settings.model)
        left = applies.left
        usd = None if said.cost_nanousd is None else plain_usd(said.cost_nanousd)
        more = {
            "cost_usd": usd,
            "unpriced": applies.unpriced(said),
            "budget_left_nanousd": left.left_nanousd if left else None,
        }
        show.emit(msgspec.structs.asdict(said) | more)
    else:
        _answer(control, settings, [Message("user", prompt)], said)


def _answer(control: Control, settings: Settings, turns: Sequence[Message], said: Said) -> None:
    """Print an answer as it comes and, when it has ended, what it was like."""
    try:
        hear(control, settings.ask(turns), said, show.write)
    finally:
        if said.text and not said.text.endswith("\n"):
            show.write("\n")
    if said.finish_reason == "length":
        show.note(show.Painted("The answer was cut at its longest", "yellow"))
    show.note(show.Painted(_summary(said, _applies(control, settings.model)), "dim"))


def _summary(said: Said, applies: _Applies) -> str:
    facts = [said.target or said.model]
    if said.output_tokens is not None:
        facts.append(f"{said.input_tokens} in + {said.output_tokens} out tokens")
    if said.tokens_per_s is not None:
        facts.append(f"{said.tokens_per_s:.1f} tokens/s")
    if said.first_ms is not None:
        facts.append(f"first after {said.first_ms} ms")
    if said.cost_nanousd is not None:
        facts.append("unpriced" if applies.unpriced(said) else show.money(said.cost_nanousd))
    if left := applies.left:
        of = " ".join(filter(None, (left.scope, left.name)))
        facts.append(f"{show.money(left.left_nanousd)} left of {left.budget} ({of})")
    return " · ".join(facts)


def _applies(control: Control, model: str) -> _Applies:
    """Return what is known of the owner's calls of a model: budgets, and targets' prices."""
    try:
        return msgspec.convert(control.post("/control/explain", {"model": model}), _Applies)
    except GatewayError:
        return _Applies()  # the answer is here and whole: this is a courtesy


class Conversation:
    """Questions and answers at a terminal, each with all that was said before."""

    def __init__(self, control: Control, settings: Settings) -> None:
        self._control = control
        self._settings = settings
        self._turns: list[Message] = []

    def run(self) -> None:
        """Talk until the person has had enough."""
        import readline  # noqa: F401, PLC0415 - importing it gives `input` a line editor

        show.note(show.Painted(f"Talking with {self._settings.model}; /help, /quit", "dim"))
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                show.note("")
                return
            except KeyboardInterrupt:
                show.note("")
                continue
            if line.startswith("/"):
                if not self._obey(line):
                    return
            elif line:
                self._turn(line)

    def _turn(self, question: str) -> None:
        said = Said(self._settings.model)
        turns = [*self._turns, Message("user", question)]
        try:
            _answer(self._control, self._settings, turns, said)
        except KeyboardInterrupt:
            show.note(show.Painted("Stopped", "dim"))
        except GatewayError as error:
            # A conversation outlives a call that failed.
            show_error(error.message, error.hint)
        if said.text:  # also of an answer that was stopped: the person has read it
            self._turns = [*turns, Message("assistant", said.text)]

    def _obey(self, line: str) -> bool:
        """Do what a command says; return whether to go on."""
        command, _, name = line.partition(" ")
        match command, name.strip():
            case "/quit" | "/exit", "":
                return False
            case "/clear", "":
                self._turns = []
                show.note(show.Painted("Forgotten", "dim"))
            case "/model", name if name:
                self._settings.model = name
                show.note(show.Painted(f"Asking {name} from here on", "dim"))
            case "/help", _:
                for known, what in _COMMANDS:
                    show.note(f"{known:<12} {what}")
            case _:
                show.note(f"There is no command `{line}`; /help lists them")
        return True
