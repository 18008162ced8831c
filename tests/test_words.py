"""Numbers in sentences: one call is no "1 calls"."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tollway.cli import show
from tollway.providers.words import counted

ROOT = Path(__file__).parents[1]
NOUNS = (
    "alert answer attempt budget call case change character choice client column connection"
    " conversation core day death device ending entry error failure file finding group hour"
    " image item key layer line message minute model month note other output page part piece"
    " probe process project prompt provider question record reload request result row retry"
    " route run sample second secret sequence session slot stall stream tag target team test"
    " text thread time token turn user version warning week word"
)
MANY = {f"{one}s" for one in NOUNS.split()} | {"bodies", "entries", "processes", "retries"}
# A number, perhaps a word, and what it counts: "{n} calls", "{n} complete days".
AFTER = re.compile(
    r" (?!(?:the|its|their|of|by|for|as|and|or|to|in) )([a-z-]+)\b(?!/)(?: ([a-z-]+)\b)?"
)
# Numbers that are never one.
NEVER_ONE = {
    ("cli/health.py", "keys"),  # of a pool
    ("cli/health.py", "models"),  # one is named
    ("cli/models_add.py", "models"),  # several were found
    ("cli/models_add.py", "tokens"),  # of context
    ("cli/models_info.py", "tokens"),
    ("cli/prices.py", "tokens"),
    ("cli/spend_trend.py", "days"),  # seven at least
    ("daemon/gate/limits.py", "tokens"),
    ("providers/llamacpp/binding.py", "tokens"),  # for the log
    ("providers/llamacpp/binding.py", "outputs"),
    ("providers/llamacpp/command.py", "calls"),  # several in a row
    ("providers/llamacpp/fit.py", "slots"),
    ("providers/llamacpp/fit.py", "tokens"),
    ("providers/llamacpp/gguf.py", "files"),
    ("providers/llamacpp/lifecycle.py", "deaths"),
}
# What stands before the plural is no number.
NO_NUMBER = {
    ("cli/budget_prices.py", "calls"),
    ("daemon/config/check.py", "prompts"),
    ("daemon/log.py", "attempts"),
}


def sources() -> list[Path]:
    """Return every file of the program."""
    return [
        path
        for layer in ("cli", "daemon", "providers")
        for path in sorted(ROOT.glob(f"{layer}/**/*.py"))
    ]


def numbered(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the noun of each number that stands right before a plural."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            for value, after in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant):
                    # Limits of our own: upper case, and never one.
                    limit = isinstance(value.value, ast.Name) and value.value.id.isupper()
                    noun = plural(AFTER.match(str(after.value)))
                    if noun and not limit:
                        yield value.lineno, noun
        elif isinstance(node, ast.Constant):
            after_d = str(node.value).partition("%d")[2]  # as loggers are told
            if noun := plural(AFTER.match(after_d)):
                yield node.lineno, noun


def plural(found: re.Match[str] | None) -> str:
    """Return which of the words behind a number is a plural, "" for none."""
    return next((word for word in found.groups() if word in MANY), "") if found else ""


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (0, ("call",), "0 calls"),
        (1, ("call",), "1 call"),
        (2, ("key rests", "keys rest"), "2 keys rest"),
        (1, ("key rests", "keys rest"), "1 key rests"),
        (12_345, ("row",), "12,345 rows"),
    ],
)
def test_what_is_counted_is_one_or_several(count: int, words: tuple[str, ...], said: str) -> None:
    """Only one is one, none is several; large numbers have their commas."""
    assert counted(count, *words) == show.counted(count, *words) == said


def test_a_number_may_be_written_short() -> None:
    """What it counts still goes by the number itself."""
    assert counted(12_345, "call", shown="12.3k") == "12.3k calls"
    assert counted(1, "call", shown="1") == "1 call"


def test_no_number_stands_before_a_plural_by_itself() -> None:
    """`counted` knows how many there are; a sentence that is only written does not."""
    found = {
        (str(path.relative_to(ROOT)), noun): line
        for path in sources()
        for line, noun in numbered(path)
    }
    assert {one: line for one, line in found.items() if one not in NEVER_ONE | NO_NUMBER} == {}
    assert found.keys() >= NEVER_ONE | NO_NUMBER, "an exception that is none any more"
