"""The program itself: its table, its help, what it imports, and how it fails."""

import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from program import Home
from typer.testing import CliRunner

from tollway.cli import app as program
from tollway.cli.lazy import Row, take_debug

# Each has one home in the architecture; none may be paid for by `tollway --help`.
HEAVY = (
    "aiohttp",
    "cryptography",
    "genai_prices",
    "keyring",
    "msgspec",
    "rich",
    "sqlite_utils",
    "tomlkit",
    "tollway.daemon",
)


def tollway(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the real program and return what it said."""
    return subprocess.run(
        [sys.executable, "-m", "tollway.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100", **env},
    )


def function_of(row: Row) -> object:
    """Return the function behind a row."""
    module, _, name = row.home.partition(":")
    return getattr(import_module(f"tollway.cli.{module}"), name)


NAMES = """[providers.openai]
kind = "openai"
api_key = "env:NOBODYS"
[routes.smart]
to = ["openai/gpt-5"]
[groups.everybody]
models = ["*"]
[teams.ml]
[projects.bot]
[users.ada]
[keys.ci]
user = "ada"
hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
[models.tiny]
gguf = "tiny.gguf"
"""
LEAVES = [row for row in program.COMMANDS if row.home]


@pytest.mark.parametrize("words", [["--help"], ["config", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    """Help answers from the table: no command's module is imported, and so none of its needs."""
    code = (
        "import sys\nfrom tollway.cli.app import main\n"
        f"sys.argv[1:] = {words!r}\n"
        "try:\n    main()\nfinally:\n"
        f"    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr.strip()) == (0, "[]")


def test_the_first_help_lists_every_command_under_its_panel() -> None:
    """Whoever types `tollway --help` sees all there is, grouped."""
    text = tollway("--help").stdout
    for row in program.COMMANDS:
        if " " not in row.name:
            assert row.panel, f"`{row.name}` needs a panel"
            assert f"  {row.name} " in text
            assert row.help in text


@pytest.mark.parametrize("row", LEAVES, ids=lambda row: row.name)
def test_a_commands_help_is_its_docstring_with_an_example(row: Row) -> None:
    """The row repeats the docstring's first line, which is not imported to list the commands."""
    doc = function_of(row).__doc__ or ""
    assert doc.splitlines()[0].rstrip(".") == row.help
    shown = CliRunner().invoke(program.app, [*row.name.split(), "--help"])
    assert shown.exit_code == 0, shown.output
    assert f"\n  tollway {row.name}" in shown.stdout.partition("Example")[2]
    assert "Raises:" not in shown.stdout
    assert "Args:" not in shown.stdout
    # No words of the type system, and an argument is in capitals.
    assert not re.search(r"<|x>=|\{|range|list\[|\.\.\.\.", shown.stdout.partition("Options:")[2])
    usage = shown.stdout.splitlines()[0].partition("[OPTIONS]")[2]
    assert not re.search(r"[{}<>]", usage)
    assert usage == usage.upper() or "|" in usage


@pytest.mark.parametrize("row", program.COMMANDS, ids=lambda row: row.name)
def test_the_short_option_shows_the_same_help(row: Row) -> None:
    """`-h` is what many programs call it; no command means another thing by it."""
    shown = [CliRunner().invoke(program.app, [*row.name.split(), ask]) for ask in ("-h", "--help")]
    assert [one.exit_code for one in shown] == [0, 0], shown[0].output
    assert shown[0].stdout == shown[1].stdout
    assert "-h, --help" in shown[0].stdout


@pytest.mark.parametrize("row", [row for row in program.COMMANDS if not row.home])
def test_a_group_has_commands_and_its_own_help(row: Row) -> None:
    """A group alone shows its commands and exits with 2: nothing was asked for."""
    alone = CliRunner().invoke(program.app, row.name.split())
    assert alone.exit_code == 2
    for other in program.COMMANDS:
        if other.name.startswith(f"{row.name} "):
            assert other.help in alone.stderr


def test_an_unknown_command_names_the_nearest() -> None:
    """A typing mistake costs one look, and exits with 2."""
    ended = tollway("stauts")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.splitlines()[0] == "error: There is no command `tollway stauts`"
    assert "`tollway status`" in ended.stderr


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("start", "tollway up"),
        ("stop", "tollway down"),
        ("help", "tollway --help"),
        ("pull", "tollway models pull"),
        ("test", "tollway providers test` or `tollway routes test"),
        ("keys delete", "tollway keys revoke"),
        ("routes create", "tollway routes add"),
        ("budgets add", "tollway budgets set"),
        ("keys rotat", "tollway keys rotate"),
        ("ls", "tollway models list"),
        ("login", "tollway providers add"),
        ("config set", "tollway config edit"),
        ("models stop", "tollway models unload"),
        ("keys regenerate ci", "tollway keys rotate"),
        ("health", "tollway status"),
        ("config reload", "tollway reload"),
        ("keys disable ci", "tollway keys revoke"),
    ],
)
def test_what_other_programs_call_it_is_understood(line: str, meant: str) -> None:
    """No word is near `stop` but `top`, which is not what was meant."""
    ended = tollway(*line.split())
    assert (ended.returncode, ended.stderr.splitlines()[1]) == (2, f"hint: Did you mean `{meant}`?")


def test_an_unknown_option_is_a_usage_error_in_two_lines() -> None:
    """Typer's own errors come in the program's voice."""
    ended = tollway("status", "--jsn")
    assert ended.returncode == 2
    first, second = ended.stderr.splitlines()
    assert first.startswith("error: No such option: --jsn")
    assert second.startswith("hint: Did you mean `--json`? `tollway status --help` shows")


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("spend --days 7", "--since"),
        ("spend --group-by team", "--by"),
        ("spend --team ml", "--only"),
        ("logs --tail 5", "-n"),
        ("keys list -o json", "--json"),
        ("spend --output csv", "--format"),
        ("keys create bot --duration 30d", "--expires"),
    ],
)
def test_an_option_that_other_programs_have_is_told_its_name_here(line: str, meant: str) -> None:
    """Nearest to `--days` is `--as`, which has nothing to do with it."""
    assert f"hint: Did you mean `{meant}`? `tollway" in tollway(*line.split()).stderr


def test_an_option_for_what_the_file_says_is_told_so() -> None:
    """LiteLLM and llama-swap are told where to listen as they start."""
    assert "hint: `listen` in [server] of gateway.toml says" in tollway("up", "--port", "1").stderr


def test_no_option_is_offered_that_is_not_near() -> None:
    """All begin with two dashes, which make no two of them alike."""
    for line in ("status --user ada", "prices list --team ml", "keys set ci --group x"):
        assert "Did you mean" not in tollway(*line.split()).stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("spend --top x", "expected a whole number"),
        ("logs -n 99999999999999999999", "expected at most 1000000"),
        ("chat --temperature x", "expected a number"),
        ("chat --temperature 9", "expected at most 2"),
        ("bench --connections 0", "expected at least 2"),
    ],
)
def test_a_number_that_cannot_be_says_what_is_expected(line: str, said: str) -> None:
    """In plain words."""
    assert tollway(*line.split()).stderr.splitlines()[0].endswith(said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("logs -5", "`tollway logs -n 5` shows the latest"),
        ("prices set box/m -5", "Got unexpected extra argument"),
        ("spend -7", "Got unexpected extra argument"),
        ("spend -x", "No such option: -x"),
        (f"users create {65 * 'x'}", "a letter or digit first, at most 64"),
        ("keys create new --user ada --budget -5/day", 'a sum is never negative; write "5/day"'),
    ],
)
def test_a_number_below_zero_is_no_option(tmp_path: Path, line: str, said: str) -> None:
    """What it stands for is refused in words of its own; it names no option that is missing."""
    home = Home(tmp_path)
    home.write(NAMES)
    done = home.tollway(*line.split())
    assert done.returncode
    assert said in done.stderr


def test_an_option_without_its_value_names_its_command() -> None:
    """Whose help tells it; an argument that is missing stands there as the help has it."""
    assert "Missing argument 'NUMBER'" in tollway("config", "rollback").stderr
    assert "`tollway logs --help` shows" in tollway("logs", "--tag").stderr
    lacking = tollway("routes", "add", "fast", "openai/gpt-5").stderr
    assert "Missing option '--to PROVIDER/MODEL[=WEIGHT]'" in lacking


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("users set ada --budget 5/day --team=", "--team"),
        ("keys set ci --project '' --budget 5/day", "--project"),
        ("providers set openai --base-url ''", "--base-url"),
        ("--config '' down", "--config"),
        ("keys list --config ''", "--config"),
    ],
)
def test_an_option_that_is_empty_is_refused(tmp_path: Path, line: str, option: str) -> None:
    """A variable that is not set would leave out what was meant, or change another gateway."""
    home = Home(tmp_path)
    home.write(NAMES)
    done = home.tollway(*shlex.split(line))
    assert done.returncode == 2
    assert f"`{option}` has an empty value" in done.stderr
    assert home.config.read_text() == NAMES


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("stauts", "`tollway status`"),
        ("keys shw", "`tollway keys show`"),
        ("status --jsno", "`--json`"),
        ("spend --csv", "`--format`"),
        ("teams create new --models fast", "`--group`"),
        ("spend --format jsno", "`json`"),
        ("ledger export --what cals", "`calls`"),
        ("secrets backend vautl", "`vault`"),
        ("keys show cii", "ci?"),
        ("users show adda", "ada?"),
        ("keys set ci --user adda", "ada?"),
        ("teams show mll", "ml?"),
        ("routes remove smrt", "smart?"),
        ("models remove tny", "tiny?"),
        ("providers test opnai", "openai?"),
        ("providers add new --kind opnai", "openai?"),
        ("prices show opnai/gpt-5", "openai?"),
        ("prices show openai/gpt-4oo", "openai/gpt-4o?"),
        ("keys lst", "`tollway keys list`"),
        ("budgets lst", "`tollway budgets list`"),
        ("spnd", "`tollway spend`"),
        ("keys rotate cii", "ci?"),
        ("keys create new --user adda", "ada?"),
        ("teams set mll --share 2", "ml?"),
        ("teams create new --group evrybody", "everybody?"),
        ("users set adda --team ml", "ada?"),
        ("users create new --team mll", "ml?"),
        ("projects remove bott", "bot?"),
        ("groups show evrybody", "everybody?"),
        ("budgets set route smrt 5/day", "smart?"),
        ("budgets set provider opnai 5/day", "openai?"),
        ("budgets raise team mll +5 --until tomorrow", "ml?"),
        ("budgets remove key cii", "ci?"),
        ("budgets set team ml 5/dya", "day?"),
        ("routes add new --to opnai/gpt-5", "openai?"),
        ("routes add new --to local/tny", "tiny?"),
        ("models info tny", "tiny?"),
        ("ledger reprice --since ysterday", "yesterday?"),
        ("spend --by taem", "team?"),
        ("spend --since yesterdya", "yesterday?"),
        ("spend --tz Europe/Berln", "Europe/Berlin?"),
        ("logs --state opne", "open?"),
        ("logs --status eror", "error?"),
        ("import claud-code", "claude-code?"),
        ("run -- cluade", "claude?"),
        ("budgets set taem ml 5/day", "team?"),
    ],
)
def test_what_is_typed_wrong_names_what_was_meant(tmp_path: Path, line: str, meant: str) -> None:
    """Commands, options, their values, and names of gateway.toml."""
    home = Home(tmp_path)
    home.write(NAMES)
    ended = home.tollway(*line.split())
    assert ended.returncode in (1, 2), ended.stderr
    assert re.search(rf"[Dd]id you mean {re.escape(meant)}", ended.stderr), ended.stderr


def test_the_version_is_the_packages() -> None:
    """`--version` answers from the installed package."""
    assert tollway("--version").stdout == f"tollway {version('tollway')}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_commands_in_each_shell(shell: str) -> None:
    """Completion asks the program itself, with the words typed so far."""
    typed = {"_TYPER_COMPLETE_ARGS": "tollway con", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    words = {"COMP_WORDS": "tollway con", "COMP_CWORD": "1"}
    ended = tollway(_TOLLWAY_COMPLETE=f"complete_{shell}", **typed, **words)
    assert "config" in ended.stdout
    assert "secrets" not in ended.stdout


def test_debug_may_stand_anywhere_before_the_dashes() -> None:
    """`--debug` is the program's own, except behind `--`, where another program's words stand."""
    words = ["status", "--debug", "--json"]
    assert take_debug(words)
    assert words == ["status", "--json"]
    words = ["run", "--", "agent", "--debug"]
    assert not take_debug(words)
    assert words == ["run", "--", "agent", "--debug"]
