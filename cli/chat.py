"""`chat`: one question, or a conversation, over the daemon's own socket."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tollway.cli import chat_names, complete, show
from tollway.cli.answer import Message, Said, hear
from tollway.cli.boundary import UsageProblem
from tollway.cli.chat_end import ended, told
from tollway.cli.chat_wait import Waiting
from tollway.cli.control import Control, reach
from tollway.cli.conversation import Conversation, Settings, answer, applies, models
from tollway.cli.markdown import can_draw
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.run_env import KEY
from tollway.providers.money import plain_usd


def chat(  # noqa: PLR0913, PLR0917 - each is an option that people type
    first: Annotated[
        str | None,
        typer.Argument(
            metavar="ROUTE",
            help="Whom to ask; else the first route or model.",
            autocompletion=complete.callables,
        ),
    ] = None,
    second: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The question, which may stand alone.")
    ] = None,
    config: ConfigFile = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="NAME", help="What to ask.", autocompletion=complete.callables
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="How it should be.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="How free.")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Print answers as they come, without Markdown.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a model one question, or talk with it.

    The answer goes to stdout as it comes; speed, cost and what is left to spend to stderr. A
    question may come from a pipe, or be followed by what does. With no question at a terminal a
    conversation begins: /help there lists its commands. One word alone is a question, unless it
    is a route or model by name, or `PROVIDER/MODEL`. At a terminal answers are drawn as Markdown.

    Examples:
        tollway chat "What is a toll?"
        git diff | tollway chat fast "Review this"
    """
    control = reach(config)
    if os.environ.get(KEY):
        show.note(show.Painted(f"${KEY} is not used: `chat` asks as the gateway's owner", "dim"))
    names = models(control)
    name, words = _grammar(names, model, first, second, config)
    piped = "" if sys.stdin.isatty() else sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    prompt = "\n\n".join(part for part in (words, piped) if part)
    settings = Settings(name, system, max_tokens, temperature, names, config)
    markdown = not plain and can_draw()
    if prompt:
        _once(control, settings, prompt, as_json=as_json, markdown=markdown)
    elif as_json or not sys.stdin.isatty():
        raise UsageProblem("There is nothing to ask", hint='`tollway chat "hello"` asks something')
    else:
        Conversation(control, settings, markdown=markdown).run()


def _grammar(
    names: Sequence[str],
    model: str | None,
    first: str | None,
    second: str | None,
    config: Path | None,
) -> tuple[str, str]:
    """Return whom to ask and what, "" for nothing yet; `names` are those there are.

    Raises:
        UsageProblem: Two models are named.
        NotFound: None is, and there is none by name.
    """
    if model is not None:
        if second is not None:
            raise UsageProblem(
                f"Two models are named: `{first}` and `{model}`", hint="Leave one out"
            )
        return model, first or ""
    if first is not None and second is not None:
        return first, second
    if first is not None and (first in names or chat_names.is_target(first, config)):
        return first, ""
    if not names:
        raise chat_names.nobody(config)
    meant = chat_names.near(first or "", names)
    whom = f"; `{first}` is the question: did you mean {meant}?" if meant else ""
    show.note(show.Painted(f"Asking {names[0]}{whom}", "dim"))
    return names[0], first or ""


def _once(
    control: Control, settings: Settings, prompt: str, *, as_json: bool, markdown: bool
) -> None:
    said = Said(settings.model)
    if as_json:
        with settings.told(), Waiting(control, settings.model):
            hear(control, settings.ask([Message("user", prompt)]), said, lambda _text: None)
        known = applies(control, settings.model)
        left = known.left
        usd = None if said.cost_nanousd is None else plain_usd(said.cost_nanousd)
        more = {
            "cost_usd": usd,
            "unpriced": known.unpriced(said),
            "budget_left_nanousd": left.left_nanousd if left else None,
        }
        show.emit(msgspec.structs.asdict(said) | more)
        return
    stopped = False
    try:
        answer(control, settings, [Message("user", prompt)], said, markdown=markdown)
    except KeyboardInterrupt:
        stopped = True
    if stopped:  # out here, where its connection is closed
        row = ended(said.call, settings.config)
        show.note(show.Painted(" · ".join(["Stopped", *(told(row) if row else [])]), "dim"))
        raise KeyboardInterrupt
