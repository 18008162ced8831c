"""A conversation at a terminal: its questions, its commands, and what it came to."""

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from tollway.cli import chat_names, show
from tollway.cli.answer import Ask, Message, Said, hear
from tollway.cli.boundary import UsageProblem, show_error
from tollway.cli.chat_end import ended, told
from tollway.cli.chat_wait import Waiting
from tollway.cli.control import Control, convert
from tollway.cli.editor import editor
from tollway.cli.markdown import Drawing
from tollway.cli.quiet_keys import quiet_keys
from tollway.daemon.config import files, shown
from tollway.daemon.errors import ConfigError, ModelNotFound
from tollway.providers.errors import GatewayError

_COMMANDS = (
    ("/model [NAME]", "ask another model from here on; alone, list them"),
    ("/system [TEXT]", "say how it should be; alone, show that"),
    ("/cost", "what this conversation has cost"),
    ("/retry", "ask the last question again"),
    ("/undo", "forget the last question and its answer"),
    ("/edit", "write a question in $EDITOR"),
    ("/save FILE", "write the conversation down, as Markdown"),
    ("/markdown", "draw answers as Markdown, or print them as they come"),
    ("/clear", "forget what was said"),
    ("/help", "this list"),
    ("/quit", "end; so does Ctrl-D. Ctrl-C stops an answer"),
)
_LINES = 'A line that ends in \\ goes on; """ begins and ends a text of several lines'
_FENCE = '"""'


class Settings(msgspec.Struct):
    """What holds for every answer of a conversation."""

    model: str
    system: str | None
    max_tokens: int | None
    temperature: float | None
    names: Sequence[str] = ()  # of what there is to ask
    config: Path | None = None

    def told(self) -> AbstractContextManager[None]:
        """Return what makes the refusal of an unknown model say what was meant."""
        return chat_names.told(self.model, self.names, self.config)

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


class Applies(msgspec.Struct):
    """What is known of the owner's calls of a model: budgets, and targets' prices."""

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


def models(control: Control) -> list[str]:
    """Return the names that the owner may ask, routes first."""
    return [one.id for one in convert(control.get("/v1/models"), _Models).data]


def applies(control: Control, model: str) -> Applies:
    """Return what is known of the owner's calls of a model; nothing where nobody can say."""
    try:
        return convert(control.post("/control/explain", {"model": model}), Applies)
    except GatewayError:
        return Applies()  # the answer is here and whole: this is a courtesy


def answer(
    control: Control,
    settings: Settings,
    turns: Sequence[Message],
    said: Said,
    *,
    markdown: bool = False,
) -> Applies:
    """Print an answer as it comes and, when it has ended, what it was like.

    Raises:
        GatewayError: The call was refused, or failed; `said` has what came.
    """
    ask = settings.ask(turns)
    with settings.told(), Waiting(control, settings.model) as waiting:
        if markdown:
            with quiet_keys(), Drawing() as drawing:
                hear(control, ask, said, waiting.then(drawing.write))
        else:
            try:
                hear(control, ask, said, waiting.then(show.write))
            finally:
                if said.text and not said.text.endswith("\n"):
                    show.write("\n")
    if said.finish_reason == "length":
        show.note(show.Painted("The answer was cut at its longest", "yellow"))
    known = applies(control, settings.model)
    show.note(show.Painted(_summary(said, known), "dim"))
    return known


def _summary(said: Said, known: Applies) -> str:
    facts = [said.target or said.model]
    if said.output_tokens is not None:
        facts.append(f"{said.input_tokens:,} in + {show.counted(said.output_tokens, 'out token')}")
    if said.tokens_per_s is not None:
        places = 1 if said.tokens_per_s < 100 else 0
        facts.append(f"{said.tokens_per_s:,.{places}f} tokens/s")
    if said.first_ms is not None:
        facts.append(f"first after {said.first_ms} ms")
    if said.cost_nanousd is not None:
        facts.append("unpriced" if known.unpriced(said) else show.money(said.cost_nanousd))
    if left := known.left:
        of = " ".join(filter(None, (left.scope, left.name)))
        facts.append(f"{show.money(left.left_nanousd)} left of {left.budget} ({of})")
    return " · ".join(facts)


class _Sum(msgspec.Struct):
    """What a conversation has come to. `untold` calls ended before anybody said their cost."""

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanousd: int = 0
    untold: int = 0
    estimated: bool = False

    def add(self, said: Said) -> None:
        self.answers += 1
        self.input_tokens += said.input_tokens or 0
        self.output_tokens += said.output_tokens or 0
        self.cost_nanousd += said.cost_nanousd or 0
        self.untold += said.cost_nanousd is None


class Conversation:
    """Questions and answers at a terminal, each with all that was said before.

    What was asked is kept in memory alone, for the arrow keys: no prompt is written to disk that
    nobody asked to be.
    """

    def __init__(self, control: Control, settings: Settings, *, markdown: bool = False) -> None:
        self._control = control
        self._settings = settings
        self._markdown = markdown
        self._turns: list[Message] = []
        self._sum = _Sum()
        self._names: list[str] | None = None

    def run(self) -> None:
        """Talk until the person has had enough."""
        self._line_editor()
        show.note(show.Painted(f"Talking with {self._settings.model}; /help, /quit", "dim"))
        while True:
            try:
                text = _read()
            except EOFError:
                show.note("")
                break
            except KeyboardInterrupt:
                show.note("")
                continue
            if text.startswith("/") and "\n" not in text:
                if not self._obey(text):
                    break
            elif text:
                self._turn(text)
        if self._sum.answers > 1:
            self._cost()

    def _line_editor(self) -> None:
        """Give `input` history, a completion of commands and names, and whole pastes."""
        import readline  # noqa: PLC0415 - importing it gives `input` a line editor

        readline.set_completer_delims(" ")
        readline.set_completer(self._complete)
        readline.parse_and_bind("tab: complete")
        # Python switches it off; a paste of several lines is one question with it.
        readline.parse_and_bind("set enable-bracketed-paste on")

    def _complete(self, word: str, number: int) -> str | None:
        import readline  # noqa: PLC0415 - it is there when this is called

        line = readline.get_line_buffer()
        if line.startswith("/model "):
            fits = [name for name in self._models() if name.startswith(word)]
        else:
            # The line editor adds no blank behind what it completes.
            commands = [f"{known.split()[0]}{' ' * (' ' in known)}" for known, _ in _COMMANDS]
            fits = [known for known in commands if word and known.startswith(word)]
        return fits[number] if number < len(fits) else None

    def _models(self) -> list[str]:
        if self._names is None:
            try:
                self._names = models(self._control)
            except GatewayError:
                return []
        return self._names

    def _turn(self, question: str) -> None:
        said = Said(self._settings.model)
        turns = [*self._turns, Message("user", question)]
        stopped = False
        try:
            answer(self._control, self._settings, turns, said, markdown=self._markdown)
        except KeyboardInterrupt:
            stopped = True
        except GatewayError as error:
            # A conversation outlives a call that failed.
            show_error(error.message, error.hint)
        # Out here the connection is closed, which an exception under way may keep open.
        known = self._learn(said) if said.cost_nanousd is None else []
        if stopped:
            show.note(show.Painted(" · ".join(["Stopped", *known]), "dim"))
        if said.call:
            self._sum.add(said)
        if said.text:  # also of an answer that was stopped: the person has read it
            self._turns = [*turns, Message("assistant", said.text)]

    def _learn(self, said: Said) -> list[str]:
        """Take what an answer cost that ended early from the ledger; return it in words."""
        row = ended(said.call, self._settings.config)
        if row is None or row.state != "settled":
            return []
        said.input_tokens, said.output_tokens = row.input_total, row.output_total
        said.cost_nanousd = row.cost_nanousd
        self._sum.estimated = self._sum.estimated or row.estimated
        return told(row)

    def _obey(self, line: str) -> bool:
        """Do what a command says; return whether to go on."""
        word, _, rest = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/model": self._model,
            "/system": self._system,
            "/cost": lambda _: self._cost(),
            "/retry": lambda _: self._retry(),
            "/undo": lambda _: self._undo(),
            "/edit": lambda _: self._edit(),
            "/save": self._save,
            "/markdown": lambda _: self._draw(),
            "/clear": lambda _: self._clear(),
            "/help": lambda _: _help(),
        }
        if word in {"/quit", "/exit", "/bye"}:
            return False
        if word in commands:
            commands[word](rest.strip())
        else:
            near = shown.meant(word, [*commands, "/quit"]) or "; /help lists them"
            show.note(f"There is no command `{word}`{near}")
        return True

    def _model(self, name: str) -> None:
        if name:
            if self._is_known(name):
                self._settings.model = name
                show.note(show.Painted(f"Asking {name} from here on", "dim"))
            return
        for one in self._models():
            show.note(f"{'*' if one == self._settings.model else ' '} {one}")

    def _is_known(self, name: str) -> bool:
        """Whether there is such a model to ask; where not, what was meant is said."""
        try:
            with chat_names.told(name, self._models(), self._settings.config):
                self._control.post("/control/explain", {"model": name})
        except ModelNotFound as error:
            show_error(error.message, error.hint)
            return False
        except GatewayError:
            pass  # nobody can say now; the next question will
        return True

    def _system(self, text: str) -> None:
        if text:
            self._settings.system = text
            show.note(show.Painted("It is told so from here on", "dim"))
        else:
            show.note(self._settings.system or "Nothing is said of how it should be")

    def _cost(self) -> None:
        total = self._sum
        line = (
            f"{show.counted(total.answers, 'answer')} · {show.tokens(total.input_tokens)} in +"
            f" {show.counted_short(total.output_tokens, 'out token')} ·"
            f" {'~' if total.estimated else ''}{show.money(total.cost_nanousd)}"
        )
        if total.untold:
            line += f" and {total.untold} whose cost `tollway logs` has"
        show.note(show.Painted(line, "dim"))

    def _retry(self) -> None:
        questions = [at for at, turn in enumerate(self._turns) if turn.role == "user"]
        if not questions:
            show.note("Nothing was asked yet")
            return
        question = self._turns[questions[-1]].content
        self._turns = self._turns[: questions[-1]]
        self._turn(question)

    def _undo(self) -> None:
        if not self._turns:
            show.note("Nothing was said yet")
            return
        self._turns = self._turns[:-2]
        show.note(show.Painted("Forgotten: the last question and its answer", "dim"))

    def _edit(self) -> None:
        try:
            words = editor()
        except UsageProblem as error:
            show_error(error.message, error.hint)
            return
        with tempfile.TemporaryDirectory(prefix="tollway-chat-") as folder:
            file = Path(folder) / "question.md"
            file.touch(0o600)
            code = subprocess.run([*words, str(file)], check=False).returncode  # noqa: S603
            text = file.read_text("utf-8", errors="replace").strip() if not code else ""
        if text:
            show.note(show.Painted(text, "dim"))
            self._turn(text)
        else:
            show.note("Nothing was written")

    def _save(self, name: str) -> None:
        if not name:
            show.note("/save FILE says where to")
            return
        path = Path(shlex.split(name)[0] if '"' in name or "'" in name else name).expanduser()
        heads = {"user": "You", "assistant": self._settings.model}
        text = "".join(f"## {heads[turn.role]}\n\n{turn.content}\n\n" for turn in self._turns)
        try:
            files.create(path, text.encode("utf-8", "replace"))
        except ConfigError as fault:
            show_error(fault.message, fault.hint)
        else:
            show.note(show.Painted(f"Wrote {path}", "dim"))

    def _draw(self) -> None:
        self._markdown = not self._markdown
        how = "drawn as Markdown" if self._markdown else "printed as they come"
        show.note(show.Painted(f"Answers are {how} from here on", "dim"))

    def _clear(self) -> None:
        self._turns = []
        show.note(show.Painted("Forgotten", "dim"))


def _help() -> None:
    for known, what in _COMMANDS:
        show.note(f"{known:<15} {what}")
    show.note(_LINES)


def _read() -> str:
    """Return what the person says next: a line, or several.

    Raises:
        EOFError: They have said all.
        KeyboardInterrupt: They gave this one up.
    """
    line = input("> ").strip()
    if not line.startswith(_FENCE):
        lines = [line]
        while lines[-1].endswith("\\") and not lines[-1].endswith("\\\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input(". "))
        return "\n".join(lines).strip()
    text = line.removeprefix(_FENCE)
    while not text.rstrip().endswith(_FENCE):
        text += "\n" + input(". ")
    return text.rstrip().removesuffix(_FENCE).strip()
