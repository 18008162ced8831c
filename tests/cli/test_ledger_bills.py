"""`ledger reprice` and `ledger settle`, as a person types them."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from ledger_rows import attempt, closed, ended, opened
from program import Home

from tollway.daemon.ledger.calls import one
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.canon import Price, Rate

CONFIG = """[server]
single_user = true
[providers.openai]
kind = "openai"
[prices."openai/gpt-4o-mini"]
input = {}
output = 0.6
"""
CALL, KILLED = opened(1), opened(2)


@pytest.fixture
async def home(tmp_path: Path) -> Home:
    """Return a home whose ledger has an answered call, and one that a kill cut short."""
    made = Home(tmp_path)
    made.write(CONFIG.format("0.15"))
    made.data.mkdir(parents=True, mode=0o700)
    ledger = Ledger(made.data / "ledger.db")
    ledger.start()
    price = Price("price-1", "gateway.toml", Rate(Decimal("0.15")), Rate(Decimal("0.6")))
    await ledger.admit(CALL, attempt(CALL, hold_nanousd=10**6, price=price))
    await ledger.settle(closed(CALL), ended(attempt(CALL), 233_400))
    await ledger.admit(KILLED, attempt(KILLED, price=price))
    await ledger.close()
    again = Ledger(ledger.path)
    again.start()
    await again.close()
    return made


def test_healthy_traffic_changes_nothing_and_a_new_price_is_shown_first(home: Home) -> None:
    """Nothing is written without `--apply`; the price is the file's, for the call's own day."""
    path = home.data / "ledger.db"
    done = home.tollway("ledger", "reprice", "--since", "2026-01-01")
    assert (done.returncode, done.stdout) == (0, "")
    assert "2 attempts looked at, 1 left as it is: none changes" in done.stderr
    home.write(CONFIG.format("0.3"))
    done = home.tollway("ledger", "reprice", "--since", "2026-01-01", "--dry-run")
    assert CALL.id in done.stdout
    assert "0.0002334  0.0002952  price" in done.stdout
    assert "Nothing is written" in done.stderr
    assert one(path, CALL.id).call.cost_nanousd == 233_400
    data = json.loads(
        home.tollway("ledger", "reprice", "--since", "2026-01-01", "--apply", "--json").stdout
    )
    assert (data["applied"], data["changed"], data["left"]) == (True, 1, 1)
    assert (data["before_usd"], data["after_usd"]) == ("0.0002334", "0.0002952")
    assert one(path, CALL.id).call.cost_nanousd == 295_200
    assert verify(path) == []


def test_a_call_is_settled_by_what_it_used(home: Home) -> None:
    """The estimate is named by itself; the daemon's budgets then start from the truth."""
    assert "killed meanwhile; billed at its hold" in home.tollway("logs", KILLED.id).stdout
    done = home.tollway("ledger", "settle", KILLED.id, "--usage", "input=100,output=10")
    assert done.returncode == 0
    assert "cost $0.000021; it was booked at $0.000001" in done.stderr
    row = one(home.data / "ledger.db", KILLED.id).call
    assert (row.cost_nanousd, row.input_tokens, row.estimated) == (21_000, 100, False)
    assert "its hold" not in home.tollway("logs", KILLED.id).stdout
    data = json.loads(
        home.tollway(
            "ledger", "settle", KILLED.id, "--attempt", "1", "--cost", "0.5", "--json"
        ).stdout
    )
    assert (data["before_usd"], data["after_usd"]) == ("0.000021", "0.5")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "nothing to settle it at"),
        (("--cost", "abc"), 2, "is no amount"),
        (("--cost", "0.0000000001"), 2, "is no amount"),
        (("--usage", "prompt=1"), 2, "is no usage"),
        (("--attempt", "7", "--cost", "1"), 1, "has no attempt 7"),
    ],
)
def test_a_settlement_that_cannot_be_meant_is_refused(
    home: Home, words: tuple[str, ...], code: int, says: str
) -> None:
    """Each with what to say instead."""
    done = home.tollway("ledger", "settle", KILLED.id, *words)
    assert done.returncode == code
    assert says in done.stderr
    assert "hint:" in done.stderr
    assert one(home.data / "ledger.db", KILLED.id).call.cost_nanousd == 1000


async def test_a_running_daemon_is_not_written_under(home: Home) -> None:
    """Its budgets count in memory; what to do is said."""
    ledger = Ledger(home.data / "ledger.db")
    ledger.start()
    for words in (("settle", KILLED.id, "--cost", "1"), ("reprice", "--apply"), ("vacuum",)):
        done = home.tollway("ledger", *words)
        assert done.returncode == 1
        assert "in use by process" in done.stderr
        assert "`tollway down` stops the daemon" in done.stderr
    assert home.tollway("ledger", "reprice").returncode == 0
    await ledger.close()
