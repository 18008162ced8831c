"""Commands that are named at once and imported when they are called.

Typer's own groups hold finished commands, so their modules are all imported before the first
line of help is printed. Here a command is a row; its module is imported when it is called, when
its own help is asked for, or when the shell completes its options.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from tollway.cli import early, helps
from tollway.cli.boundary import UsageProblem, boundary
from tollway.cli.wrap import settle

if TYPE_CHECKING:
    # Typer carries its own click and does not export these names.
    from typer._click.core import Command, Context, Parameter
    from typer._click.formatting import HelpFormatter
    from typer._click.parser import _OptionParser, _ParsingState


_COMPLETES = "_TOLLWAY_COMPLETE"  # set by a shell's script, which asks for what may come next
# Such as the sum of `budgets set box -5/day`; no option of ours begins so.
_BELOW_ZERO = re.compile(r"-[$.]?\d")
# What people know from other programs of Typer's.
_OTHERWISE = {
    "--show-completion": ["completion"],
    "--install-completion": ["completion", "--install"],
}

# What other programs call it; the first that a group has is meant.
_CALLED = {
    "start": ["up", "load"],
    "stop": ["down", "unload"],
    "shutdown": ["down"],
    "version": ["--version"],
    "help": ["--help"],
    "add": ["create", "set"],
    "create": ["add", "set"],
    "new": ["create", "add", "set"],
    "delete": ["remove", "revoke"],
    "rm": ["remove", "revoke", "models remove"],
    "remove": ["revoke"],
    "get": ["show", "info", "list"],
    "info": ["show"],
    "show": ["info", "list", "models info"],
    "update": ["set"],
    "edit": ["set"],
    "set": ["edit"],
    "costs": ["spend"],
    "cost": ["spend"],
    "report": ["spend"],
    "ask": ["chat"],
    "login": ["providers add"],
    "auth": ["providers add"],
    "ls": ["list", "models list"],
    "list": ["models list"],
    "path": ["show"],
    "validate": ["check"],
    "lint": ["check"],
    "download": ["pull"],
    "generate": ["create"],
    "regenerate": ["rotate"],
    "health": ["status"],
    **{word: ["revoke"] for word in ("disable", "block")},
    **{word: ["init"] for word in ("setup", "configure", "quickstart")},
    **{word: ["up"] for word in ("proxy", "gateway", "daemon")},
    **{word: ["top"] for word in ("ui", "dashboard", "monitor", "metrics")},
    "tail": ["logs"],
    "stats": ["spend"],
    "whoami": ["usage"],
}
_FEW = 2


class Row(NamedTuple):
    """A command: what is typed, where it lives, and its line in the help.

    `name` is one word, or two for a command of a group ("keys create"). `home` is
    "module:function" under `tollway.cli`; a group has none. `help` is the function's first
    docstring line without its full stop (a test compares them). `panel` is the heading under
    which a one-word row stands.
    """

    name: str
    home: str
    help: str
    panel: str = ""
    rest: bool = False  # from the first word on that is no option, all words are another program's


class Leaf(TyperCommand):
    """One command. Its help is its docstring up to `Args:`, examples kept as they stand."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Read the words; whatever is wrong with them knows whose they are.

        Raises:
            UsageProblem: An option has an empty value.
        """
        try:
            _require_values(self, ctx, args)
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            if getattr(error, "ctx", ctx) is None:  # as of an option without its value
                error.ctx = ctx  # type: ignore[attr-defined]
            raise

    def make_parser(self, ctx: Context) -> _OptionParser:
        """Return the parser, for which a negative number is a word like any other.

        What it stands for says better why it cannot be than an option that is not there.
        """
        parser = super().make_parser(ctx)
        if not self.allow_interspersed_args:
            return parser
        as_option = parser._process_opts

        def process(word: str, state: _ParsingState) -> None:
            if _BELOW_ZERO.match(word):
                state.largs.append(word)
            else:
                as_option(word, state)

        parser._process_opts = process  # type: ignore[assignment, method-assign]
        return parser

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        """Return what follows the command's name in its usage line."""
        told = [helps.in_usage(one) for one in self.get_params(ctx) if _is_word(one)]
        return [self.options_metavar or "", *told]

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the arguments, if any, and the options."""
        params = self.get_params(ctx)
        words = [helps.argument_row(one, ctx) for one in params if _is_word(one)]
        records = [one.get_help_record(ctx) for one in params if not _is_word(one)]
        options = [helps.option_row(one) for one in records if one is not None]
        for title, rows in (("Arguments", words), ("Options", options)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_help_text(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the docstring's paragraphs, wrapped, and its examples, untouched."""
        for paragraph in (self.help or "").strip().split("\n\n"):
            head, _, rest = paragraph.partition("\n")
            if head in ("Args:", "Raises:", "Returns:"):
                break
            formatter.write_paragraph()
            if head in ("Example:", "Examples:"):
                formatter.write(f"{head}\n")
                for line in rest.splitlines():
                    formatter.write(_example(line.strip(), formatter.width))
            else:
                with formatter.indentation():
                    formatter.write_text(paragraph)


def _require_values(command: Command, ctx: Context, args: list[str]) -> None:
    """Return when no option is empty: most read that as if it had not been said at all.

    Raises:
        UsageProblem: One is.
    """
    if ctx.resilient_parsing or not ("" in args or any(word[-1] == "=" for word in args)):
        return
    said, _, _ = command.make_parser(ctx).parse_args(list(args))
    options = {one.name: one.opts[0] for one in command.get_params(ctx) if not _is_word(one)}
    for name, value in said.items():
        if name in options and (value == "" or (isinstance(value, list) and "" in value)):
            raise UsageProblem(
                f"`{options[name]}` has an empty value",
                hint="A variable that is not set leaves one; else leave the option out",
            )


def _is_word(param: Parameter) -> bool:
    return bool(param.param_type_name == "argument")


def _example(line: str, width: int) -> str:
    """Return an example's lines, broken where a shell reads it as one line all the same."""
    lines = ["  "]
    for word in re.findall(r"""(?:"[^"]*"|'[^']*'|\S)+""", line):
        if len(lines[-1]) + len(word) + 3 > width and lines[-1].strip():
            lines[-1] += " \\"
            lines.append("      " + word)
        else:
            lines[-1] += f" {word}" if lines[-1].strip() else word
    return "".join(f"{one}\n" for one in lines)


class Table(TyperGroup):
    """A group of rows; `rows` and `prefix` say which."""

    rows: ClassVar[tuple[Row, ...]] = ()
    prefix = ""

    def list_commands(self, ctx: Context) -> list[str]:
        """Return the words that may follow, in the table's order."""
        return [row.name.removeprefix(self.prefix) for row in self._own()]

    def _own(self) -> list[Row]:
        depth = self.prefix.count(" ")
        return [
            row
            for row in self.rows
            if row.name.startswith(self.prefix) and row.name.count(" ") == depth
        ]

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """Return the command of that name, imported now; None for an unknown one."""
        if cmd_name not in self.commands:
            found = [row for row in self._own() if row.name == self.prefix + cmd_name]
            if not found:
                return None
            self.commands[cmd_name] = self._build(found[0], cmd_name)
        return self.commands[cmd_name]

    def _build(self, row: Row, name: str) -> Command:
        if not row.home:
            group = type(self.__class__.__name__, (Table,), {"rows": self.rows})
            made = cast(Table, group(name=name, help=f"{row.help}.", rich_markup_mode=None))
            made.prefix = f"{row.name} "
            return made
        module, _, function = row.home.partition(":")
        one = typer.Typer(add_completion=False, rich_markup_mode=None)
        called = cast(
            "Callable[..., object]", getattr(import_module(f"tollway.cli.{module}"), function)
        )
        one.command(name, cls=Leaf)(called)
        command = get_command(one)
        command.allow_interspersed_args = not row.rest
        return command

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the rows under their panels, from the table alone."""
        rows = self._own()
        for panel in dict.fromkeys(row.panel for row in rows):
            with formatter.section(panel or "Commands"):
                formatter.write_dl(
                    [
                        (row.name.removeprefix(self.prefix), row.help)
                        for row in rows
                        if row.panel == panel
                    ],
                    col_spacing=3,
                )

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Read the group's own options; with nothing to read, show the help and exit 2.

        Raises:
            UsageProblem: An option has an empty value.
        """
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        _require_values(self, ctx, args)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: Context, args: list[str]
    ) -> tuple[str | None, Command | None, list[str]]:
        """Return the command that the first word names.

        Raises:
            UsageProblem: There is no such command; the hint names the nearest ones.
        """
        known = self.list_commands(ctx)
        if not ctx.resilient_parsing and args[0] not in known and not args[0].startswith("-"):
            path = ctx.command_path
            near = [f"{path} {name}" for name in self._meant(args[0], known)]
            if not near and args[0] in {row.name for row in self.rows}:  # not of this group
                near = [f"{ctx.find_root().command_path} {args[0]}"]
            raise UsageProblem(
                f"There is no command `{path} {args[0]}`",
                hint=f"Did you mean {' or '.join(f'`{name}`' for name in near)}?"
                if near
                else f"`{path} --help` lists the commands",
            )
        return super().resolve_command(ctx, args)

    def _meant(self, word: str, known: Sequence[str]) -> list[str]:
        """Return at most two commands: what others call so, what a group has, what is near."""
        there = {*known, *(one.name for one in self.rows if not self.prefix)}
        if same := [one for one in _CALLED.get(word, ()) if one in there or one[:2] == "--"]:
            return same[:1]
        ends = (
            [] if self.prefix else [one.name for one in self.rows if one.name.endswith(f" {word}")]
        )
        return ends if 0 < len(ends) <= _FEW else difflib.get_close_matches(word, known, n=_FEW)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run what the words ask for and end the process with its exit code."""
        words = list(sys.argv[1:] if args is None else args)
        settle()
        if os.environ.get(_COMPLETES):
            from typer._completion_classes import completion_init  # noqa: PLC0415 - for Tab alone

            completion_init()
        with boundary(debug=take_debug(words)):
            early.give_back()
            words[:1] = _OTHERWISE.get("".join(words[:1]), words[:1])
            code = super().main(
                words,
                prog_name="tollway",
                complete_var=complete_var,
                # Outside standalone mode Typer leaves showing errors to the boundary.
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
            sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)


def take_debug(words: list[str]) -> bool:
    """Remove `--debug` from the words, wherever it stands before `--`; return whether it did.

    $TOLLWAY_DEBUG, when set to anything but 0, says the same.
    """
    own = words.index("--") if "--" in words else len(words)
    asked = "--debug" in words[:own]
    words[:own] = [word for word in words[:own] if word != "--debug"]
    return asked or os.environ.get("TOLLWAY_DEBUG", "0") not in ("", "0")
