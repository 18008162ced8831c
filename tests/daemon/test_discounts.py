"""Discounts and commitments: what is held, billed, counted and saved, and what the file may say."""

import asyncio
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from gateway import INPUT, OUTPUT, Gateway, body, config, gateway, whole
from hypothesis import given
from hypothesis import strategies as st
from ledger_rows import attempt, closed, ended, opened
from program import Home
from shell import running
from upstreams import reads, says, upstream

from tollway.daemon.commitments import standings
from tollway.daemon.config.load import load, parse
from tollway.daemon.errors import ConfigError
from tollway.daemon.ledger.reprice import reprice
from tollway.daemon.ledger.rows import Who
from tollway.daemon.ledger.settling import settle
from tollway.daemon.ledger.spend import totals
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger
from tollway.daemon.pricing import in_force
from tollway.providers.canon import Price, Rate, Usage
from tollway.providers.money import cost, saving, worst_case
from tollway.providers.price_data import identified
from tollway.providers.prices import discounted

USED = 7 * INPUT + 3 * OUTPUT
ANSWER = {
    "id": "c-1",
    "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}
ALWAYS = {"since_ms": 0, "until_ms": 2**53}


async def test_what_is_paid_is_what_counts() -> None:
    """Hold, bill, budget and header are at 90 %; the ledger has the list price beside them."""
    async with upstream([reads(), says(whole(msgspec.json.encode(ANSWER)))]) as up:
        text = config([up], budget="1/day").replace(
            'kind = "openai"',
            'kind = "openai"\ndiscount = 0.9\ncommit = { usd = 5, per = "month" }',
        )
        async with running(text, server="") as daemon:
            gate = Gateway(daemon, [up])
            row = await gate.row(await gate.ask(body(max_tokens=100)))
            paid = USED * 9 // 10
            assert row.call.cost_nanousd == paid
            tried = row.attempts[0]
            assert tried.price is not None
            assert tried.price.discount == Decimal("0.9")
            plain = identified(msgspec.structs.replace(tried.price, discount=Decimal(1)))
            assert tried.price.id != plain.id
            held = tried.hold_nanousd
            assert held < worst_case(10_000, 100, plain)
            path = daemon.server.daemon.ledger.path
            found = await asyncio.to_thread(totals, path, **ALWAYS)
            assert (found.cost_nanousd, found.saved_nanousd) == (paid, USED - paid)
            assert await asyncio.to_thread(verify, path) == []
            loaded = load(daemon.config)
            (standing,) = await asyncio.to_thread(standings, loaded)
            assert (standing.used_nanousd, standing.left_nanousd) == (paid, 5 * 10**9 - paid)
            again = await asyncio.to_thread(
                reprice, path, in_force(loaded), (0, 2**60), apply=False
            )
            assert (again.attempts, again.changed) == (1, 0)


async def test_a_surcharge_is_a_discount_above_one(tmp_path: Path) -> None:
    """Data that stay in a region cost a tenth more in no price list: budgets have to count it."""
    text = "discount = 1.1"
    async with gateway([[reads(), says(whole())]], provider=text) as gate:
        row = await gate.row(await gate.ask())
        assert row.call.cost_nanousd == USED * 11 // 10
        assert row.attempts[0].saved_nanousd == -USED // 10
        path = gate.daemon.server.daemon.ledger.path
        assert verify(path) == []
        home = Home(tmp_path)
        home.write(f'[server]\nsingle_user = true\n[ledger]\npath = "{path}"\n')
        said = await asyncio.to_thread(home.tollway, "spend")
        assert "surcharge $0.0000013 (10%)" in said.stderr


async def test_a_discount_that_changes_reprices_and_settles(tmp_path: Path) -> None:
    """Bills follow the new part, the saving with them, and the books still agree."""
    path = tmp_path / "ledger.db"
    price = discounted(PRICE, Decimal("0.9"))
    ledger = Ledger(path)
    ledger.start()
    call = opened(1, tags='{"run":"1"}', budget_tags=("run=1",))
    usage = Usage(input=1_000_000)
    await ledger.admit(call, attempt(call, price=price))
    done = ended(
        attempt(call),
        cost(usage, price),
        usage=usage,
        raw_usage='{"prompt_tokens":1000000,"completion_tokens":0}',
        saved_nanousd=saving(usage, price),
    )
    await ledger.settle(closed(call), done)
    await ledger.close()
    assert verify(path) == []
    less = parse(
        '[server]\nsingle_user = true\n[providers.openai]\nkind = "openai"\ndiscount = 0.8\n'
        '[prices."openai/*"]\ninput = 2\noutput = 2\n',
        path=tmp_path / "gateway.toml",
    )
    reprice(path, in_force(less), (0, 2**60), apply=True)
    found = totals(path, **ALWAYS)
    assert (found.cost_nanousd, found.saved_nanousd) == (1_600_000_000, 400_000_000)
    assert verify(path) == []
    settle(path, call.id, attempt=1, cost_nanousd=None, usage=Usage(input=500_000), who="me")
    found = totals(path, **ALWAYS)
    assert (found.cost_nanousd, found.saved_nanousd) == (800_000_000, 200_000_000)
    settle(path, call.id, attempt=1, cost_nanousd=7, usage=None, who="me")
    found = totals(path, **ALWAYS)
    assert (found.cost_nanousd, found.saved_nanousd) == (7, 0)
    assert verify(path) == []


PRICE = identified(
    Price("", "gateway.toml", Rate(Decimal(2)), Rate(Decimal(8)), request_usd=Decimal("0.001"))
)
parts = st.decimals("0.01", "1.5", places=3)
counts = st.integers(0, 10**7)


@given(parts, counts, counts)
def test_paid_and_saved_are_the_list_price(part: Decimal, came: int, went: int) -> None:
    """For every discount and usage, to the nano-dollar; and the hold still holds."""
    usage, price = Usage(input=came, output=went), discounted(PRICE, part)
    paid = cost(usage, price)
    assert paid + saving(usage, price) == cost(usage, PRICE)
    assert abs(paid - part * cost(usage, PRICE)) <= 1
    assert paid <= worst_case(came, went, price)
    assert (price.id == PRICE.id) == (part == 1)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("discount = 10", "providers.up.discount: expected the part of the list price"),
        ("discount = 1.6", "up to 1.5: 0.9 is 10% off, 1.1 a surcharge of 10%"),
        ("discount = 0", "expected the part of the list price"),
        ('discount = "0.9"', "providers.up.discount: "),
        ('discount = 0.9\nauth = "caller"', "the caller's own account pays"),
        ("commit = 500", "expected { usd = 500"),
        ('commit = { usd = 0, per = "month" }', "nothing is committed"),
        ('commit = { usd = 5, per = "day" }', "month"),
        ("commit = { usd = 5 }", "per is missing"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(
    tmp_path: Path, line: str, says: str
) -> None:
    """The file is refused, and it says where."""
    text = f'[server]\nsingle_user = true\n[providers.up]\nkind = "anthropic"\n{line}\n'
    with pytest.raises(ConfigError) as refused:
        parse(text, path=tmp_path / "gateway.toml")
    assert says in str(refused.value)
    assert "gateway.toml:" in str(refused.value)


def test_a_discount_on_what_a_provider_states_is_refused(tmp_path: Path) -> None:
    """OpenRouter's own word is the bill: a discount there would do nothing."""
    text = '[server]\nsingle_user = true\n[providers.r]\nkind = "openrouter"\ndiscount = 0.9\n'
    with pytest.raises(ConfigError, match="says in each answer what it charged"):
        parse(text, path=tmp_path / "gateway.toml")


def test_a_discount_that_may_be_meant_the_other_way_round_is_doubted(tmp_path: Path) -> None:
    """0.1 pays a tenth; whoever wants a tenth off is told how."""
    text = '[server]\nsingle_user = true\n[providers.a]\nkind = "openai"\ndiscount = 0.1\n'
    found = parse(text, path=tmp_path / "gateway.toml")
    assert any("pays 10% of the list price; for 10% off write 0.9" in one for one in found.warnings)


TOML = """[server]
listen = "127.0.0.1:0"
single_user = true
timezone = "Europe/Berlin"
[providers.openai]
kind = "openai"
discount = 0.9
commit = { usd = 500, per = "quarter" }
[providers.groq]
kind = "groq"
commit = { usd = 1, per = "year" }
"""


async def test_spend_shows_list_price_paid_price_and_commitments(tmp_path: Path) -> None:
    """Each by group, in every form; what is committed with its use and what is left."""
    home = Home(tmp_path)
    home.write(TOML)
    home.data.mkdir(parents=True, mode=0o700)
    ledger = Ledger(home.data / "ledger.db")
    ledger.start()
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    less = discounted(PRICE, Decimal("0.9"))
    for number, (provider, price) in enumerate((("openai", less), ("groq", PRICE))):
        call = opened(number, now_ms - 1000, who=Who(team="ml"))
        usage = Usage(input=1_000_000)
        await ledger.admit(call, attempt(call, provider=provider, price=price))
        await ledger.settle(
            closed(call),
            ended(
                attempt(call),
                cost(usage, price),
                usage=usage,
                saved_nanousd=saving(usage, price),
            ),
        )
    await ledger.close()
    shown = await asyncio.to_thread(home.tollway, "spend", "--by", "provider", "--since", "1d")
    assert shown.stdout.splitlines()[0].split()[:4] == ["provider", "cost", "saved", "share"]
    assert "List price $4.00, paid $3.80, saved $0.2001 (5%)" in shown.stderr
    assert "committed at openai, $500.00 a quarter: $1.80 used (<1%), $498.20 left" in shown.stderr
    assert "committed at groq, $1.00 a year: $2.00 used (200%), $1.00 beyond it" in shown.stderr
    told = await asyncio.to_thread(
        home.tollway, "spend", "--by", "provider", "--since", "1d", "--json"
    )
    data = json.loads(told.stdout)
    rows = {row["group"]["provider"]: row for row in data["rows"]}
    assert rows["openai"]["list_usd"] == "2.001"
    assert rows["openai"]["cost_usd"] == "1.8009"
    assert rows["openai"]["saved_usd"] == "0.2001"
    assert rows["groq"]["saved_usd"] == "0"
    assert [one["used_usd"] for one in data["commitments"]] == ["1.8009", "2.001"]


def test_commitments_turn_over_with_the_calendar(tmp_path: Path) -> None:
    """Quarters begin in January, April, July and October, years in January, where people are."""
    loaded = parse(TOML, path=tmp_path / "gateway.toml")
    now = int(datetime(2026, 5, 20, tzinfo=UTC).timestamp() * 1000)
    moments = [
        datetime.fromtimestamp(ms / 1000, UTC).isoformat()[:16]
        for one in standings(loaded, now)
        for ms in (one.since_ms, one.ends_ms)
    ]
    assert moments == [
        *("2026-03-31T22:00", "2026-06-30T22:00"),
        *("2025-12-31T23:00", "2026-12-31T23:00"),
    ]
