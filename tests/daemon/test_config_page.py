"""Every key of the format works or is refused with `not supported yet`; none is ignored."""

import re
import tomllib
from pathlib import Path

import pytest

from tollway.daemon.config.lines import lines_of
from tollway.daemon.config.load import parse
from tollway.daemon.config.support import LATER
from tollway.daemon.errors import ConfigError

PAGE = (Path(__file__).parent / "config_page.toml").read_text()
GATEWAY = Path("gateway.toml")


def faults(text: str) -> list[str]:
    """Return the lines of a text's refusal, none for a valid text."""
    try:
        parse(text, path=GATEWAY)
    except ConfigError as refused:
        return refused.message.splitlines()
    return []


def test_the_page_is_refused_only_for_what_is_not_supported_yet() -> None:
    """Two answers there are for a key of the format: it works, or it says it does not yet."""
    found = faults(PAGE)
    assert found
    assert [line for line in found if "not supported yet: it will " not in line] == []


def test_every_key_that_is_not_alive_is_refused_on_the_page() -> None:
    """A row of the table that the page does not exercise could be misspelt."""
    refused = {re.sub(r"\[\d+\]", ".*", line.split(": ")[1]) for line in faults(PAGE)}
    for row in LATER:
        pattern = (
            re.escape(row.key).replace(r"\*\*", r".+").replace(r"\*", r'(?:\*|"[^"]+"|[\w-]+)')
        )
        assert any(re.fullmatch(pattern, key) for key in refused), row.key


def test_every_refusal_names_its_own_line() -> None:
    """A person goes to the line; what stands there must be the key."""
    lines = PAGE.splitlines()
    for fault in faults(PAGE):
        _, number, key, *_ = fault.split(":")
        name = re.sub(r"\[\d+\]", "", key).split(".")
        # Values that hold several things name the key that they are the value of.
        assert any(part.strip(' "') in lines[int(number) - 1] for part in name[-3:]), fault


def leaves() -> list[tuple[str, str]]:
    """Return each table's head with each of its lines."""
    found = []
    head = ""
    for line in PAGE.splitlines():
        if line.startswith("["):
            head = line
        elif "=" in line and not line.startswith("#"):
            found.append((head, line))
    return found


@pytest.mark.parametrize(("head", "line"), leaves(), ids=lambda text: text.split(" = ")[0])
def test_no_key_of_the_format_is_unknown(head: str, line: str) -> None:
    """Alone in its table, what else is missing may be said, but never `unknown key`."""
    found = faults(f"{head}\n{line}\n")
    assert [one for one in found if "unknown key" in one] == []


TODAY = """
[server]
hold = "strict"
[ledger]
bodies = "off"
[providers.openai]
kind = "openai"
api_keys = ["env:KEY"]
auth = "key"
[models.a]
gguf = "a.gguf"
slots = 1
hold = "strict"
kv_type = "f16"
apart_from = []
[routes.r]
to = [{ target = "openai/gpt-4o", weight = 1 }]
strategy = "ordered"
retries = 0
on_loss = "warn"
when = []
[teams.t]
share = 1
budget = [{ usd = 1, per = "day", at = "hard" }]
"""


def test_values_that_say_what_happens_today_are_taken() -> None:
    """A file may spell out the defaults of the format."""
    config = parse(TODAY, path=GATEWAY)
    assert config.providers["openai"].api_key == "env:KEY"
    assert config.routes["r"].to == ("openai/gpt-4o",)
    assert config.teams["t"].budget[0].text == "1/day"


@pytest.mark.parametrize(
    ("was", "wanted"),
    [
        ('slots = 1\nhold = "strict"', 'slots = 1\nhold = "expected"'),
    ],
)
def test_other_values_of_those_keys_are_not(was: str, wanted: str) -> None:
    """What looks like today's value and is none is refused like all others."""
    assert was in TODAY
    found = faults(TODAY.replace(was, wanted))
    assert found and all("not supported yet" in line for line in found)


def test_weights_are_refused_where_no_strategy_goes_by_them() -> None:
    """Whoever writes a weight wants calls shared out, which an order does not do."""
    text = TODAY.replace("weight = 1 }", 'weight = 1 }, { target = "openai/gpt-4.1", weight = 1 }')
    assert "routes.r.to[0].weight: shares nothing out" in faults(text)[0]
    assert parse(text.replace('"ordered"', '"weighted"'), path=GATEWAY).routes["r"].aims[1].share


def test_the_page_is_toml_whose_every_key_has_a_line() -> None:
    """The walk above is over the file that tomllib reads."""
    assert set(tomllib.loads(PAGE)) == {str(at[0]) for at in lines_of(PAGE)}
