"""`spend`: what this box did beside what others did, its idle time, and the same elsewhere."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from ledger_rows import PRICE, attempt, closed, ended, opened
from program import Home

from tollway.daemon.ledger.rows import LocalTime
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.canon import Usage

NOW_MS = time.time_ns() // 1_000_000
TOML = """[server]
listen = "127.0.0.1:0"
single_user = true
[providers.openai]
kind = "openai"
api_key = "env:KEY"
[models.smol]
gguf = "smol.gguf"
price = { gpu_hour = 3.6 }
[prices."openai/reference"]
input = 1
output = 2
cached_input = 0.5
request = 10
search = 0.01
"""
USED = {
    "local": Usage(input=1000, cache_read=200, output=100),
    # Characters spoken, seconds heard, images and paid searches alike are counted as searches.
    "openai": Usage(input=10, output=1, searches=1200),
}
# In nano-dollars by the reference: 1000, 500 and 2000 for a token.
ELSEWHERE = {"local": 1_000_000 + 100_000 + 200_000, "openai": 12_000}


async def fill(path: Path) -> None:
    """Write a call of each side, and an hour of the model's time in two pieces."""
    ledger = Ledger(path)
    ledger.start()
    await ledger.ready()
    for number, (provider, usage) in enumerate(USED.items()):
        call = opened(number, NOW_MS - 1000)
        await ledger.admit(call, attempt(call, provider=provider, model="smol", price=PRICE))
        await ledger.settle(closed(call), ended(attempt(call), 5000 + number, usage=usage))
    for _ in range(2):
        ledger.times([LocalTime(NOW_MS - 1000, "smol", 60_000, 1_740_000, 1_740_000_000)])
    ledger.times([])
    await ledger.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return a home with that ledger."""
    made = Home(tmp_path_factory.mktemp("home"))
    made.write(TOML)
    made.data.mkdir(parents=True)
    asyncio.run(fill(made.data / "ledger.db"))
    return made


def say(home: Home, *words: str) -> str:
    """Return what `spend` prints of the last day."""
    done = home.tollway("spend", "--since", "24h", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(home: Home, *words: str) -> Any:
    """Return what it prints as JSON."""
    return json.loads(say(home, "--json", *words))


def test_idle_time_is_a_line_of_its_own_and_in_no_sum(home: Home) -> None:
    """3.6 dollars an hour for 58 minutes, beside a total that does not have them."""
    said = told(home)
    assert said["local_time"] == [
        {
            "model": "smol", "busy_ms": 120_000, "idle_ms": 3_480_000,
            "idle_nanousd": 3_480_000_000, "idle_usd": "3.48",
        }
    ]  # fmt: skip
    assert said["total"]["cost_nanousd"] == 10_001
    for form in ("table", "markdown"):
        (line,) = [one for one in say(home, "--format", form).splitlines() if "idle: smol" in one]
        assert "$3.48" in line
        assert "58m" in line and "without work, in no call's cost" in line


def test_this_box_stands_beside_others(home: Home) -> None:
    """What it made itself, and what it bought."""
    said = told(home)
    assert (said["local"]["cost_nanousd"], said["hosted"]["cost_nanousd"]) == (5000, 5001)
    assert (said["local"]["input_total"], said["hosted"]["input_total"]) == (1200, 10)
    done = home.tollway("spend", "--since", "24h")
    assert "On this box 1,300 tokens" in done.stderr.replace("1.3k", "1,300")


def test_the_same_tokens_elsewhere(home: Home) -> None:
    """By class of token; a fee for each call or search is none of theirs."""
    said = told(home, "--by", "provider", "--as", "openai/reference")
    assert said["reference"] == "openai/reference"
    by = {row["group"]["provider"]: row["as_nanousd"] for row in said["rows"]}
    assert by == ELSEWHERE
    assert said["total"]["as_nanousd"] == sum(ELSEWHERE.values())
    assert said["total"]["as_usd"] == "0.001312"
    assert "as openai/reference" in say(home, "--as", "openai/reference").splitlines()[0]
    csv = say(home, "--as", "openai/reference", "--format", "csv").splitlines()
    assert csv[0].endswith(",as_usd")


@pytest.mark.parametrize(
    ("target", "word"),
    [("nonsense", "is no target"), ("local/smol", "has no price by tokens")],
)
def test_a_reference_without_a_price_is_refused(home: Home, target: str, word: str) -> None:
    """A column of nothing would be taken for a bargain."""
    done = home.tollway("spend", "--as", target)
    assert done.returncode == 2
    assert word in done.stderr
