"""Budgets of the box, providers, teams, users, projects, keys, routes and tags; raises."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from gateway import INPUT, OUTPUT, Gateway, body, error, gateway, whole
from shell import Reply, running, short_folder, until
from upstreams import reads, resets, says, waits

from tollway.daemon.config.load import load
from tollway.daemon.gate.books import BudgetState
from tollway.daemon.ledger.calls import recent
from tollway.daemon.ledger.verify import verify
from tollway.daemon.reload import removed

COST = 7 * INPUT + 3 * OUTPUT
ANSWERS = [[reads(), says(whole())]]
SMALL = "0.0000001"
ROUTE = '[routes.r]\nto = ["up/a", "up1/b"]\n'
# Where a budget can stand: what of the configuration it replaces, and with what, {} the budget.
PLACES = {
    "box": ("[server]", "[server]\nbudget = [{}]"),
    "provider up": ('kind = "openai"', 'kind = "openai"\nbudget = [{}]'),
    "team ml": ("[teams.ml]", "[teams.ml]\nbudget = [{}]"),
    "user ann": ("[users.ann]", "[users.ann]\nbudget = [{}]"),
    "project bot": ("[projects.bot]", "[projects.bot]\nbudget = [{}]"),
    "key laptop": ("[keys.laptop]", "[keys.laptop]\nbudget = [{}]"),
    "route r": ("[routes.r]", "[routes.r]\nbudget = [{}]"),
    "tag run=42": ("[groups.all]", "[tags.run.42]\nbudget = [{}]\n[groups.all]"),
}
MORE = '[projects.bot]\nteam = "ml"\n[routes.r]\nto = ["up/a"]\n'


async def change(gate: Gateway, was: str, to: str) -> None:
    """Change the configuration, and reload."""
    config = gate.daemon.config
    text = config.read_text()
    assert was in text
    config.write_text(text.replace(was, to, 1))
    await gate.daemon.server.reloader.reload()


async def place(gate: Gateway, scope: str, budget: str) -> None:
    """Give a scope a budget, and the user none; the key belongs to the project too."""
    was, to = PLACES[scope]
    config = gate.daemon.config
    text = config.read_text().replace('budget = ["1/day"]\n', "").replace(was, to.format(budget), 1)
    if "project" not in text.partition("[keys.laptop]")[2].partition("[projects")[0]:
        text = text.replace('user = "ann"\n', 'user = "ann"\nproject = "bot"\n')
    config.write_text(text)
    await gate.daemon.server.reloader.reload()


async def asked(gate: Gateway, model: str = "r", tags: str = "run=42") -> Reply:
    """Ask, as a call that every scope applies to."""
    return await gate.ask(body(model=model), x_tollway_tags=tags)


def state_of(gate: Gateway, scope: str) -> BudgetState:
    """Return how the only budget of a scope stands."""
    states = gate.daemon.server.daemon.gate.purse.states()
    (found,) = [one for one in states if f"{one.scope} {one.name}".strip() == scope]
    return found


@pytest.mark.parametrize("scope", PLACES)
async def test_a_budget_holds_wherever_it_stands(scope: str) -> None:
    """Every scope counts the call, and refuses what does not fit; other calls it leaves alone."""
    async with gateway(ANSWERS, more=MORE) as gate:
        await place(gate, scope, '"1/day"')
        assert (await asked(gate)).status == 200
        await until(lambda: state_of(gate, scope).held_nanousd == 0)
        state = state_of(gate, scope)
        assert (state.settled_nanousd, state.id) == (COST, f"{scope} 1/day")
        await change(gate, '"1/day"', f'"{SMALL}/day"')
        reply = await asked(gate)
        assert (reply.status, error(reply)["code"]) == (402, "insufficient_quota")
        whose = scope.replace(" ", " `", 1) + "`" if " " in scope else "the whole box"
        assert f"budget {SMALL}/day of {whose}" in error(reply)["message"]
        assert len(gate.ups[0].requests) == 1


@pytest.mark.parametrize("scope", PLACES)
async def test_every_scope_begins_with_what_its_calls_have_cost(scope: str) -> None:
    """A budget that a reload adds, or a restart opens, counts what the ledger knows, also rolling.

    A tag's counts from when it is declared.
    """
    async with gateway(ANSWERS, more=MORE) as gate:
        await place(gate, scope, '"2/day"' if scope.startswith("tag") else "")
        assert (await asked(gate)).status == 200
        for budget in ('"1/month"', '"1/24h"', '"1/1m"'):
            text = gate.daemon.config.read_text()
            old = (
                "[]"
                if "budget = []" in text
                else text[text.index("budget = [") + 9 :].split("]")[0] + "]"
            )
            await change(gate, f"budget = {old}", f"budget = [{budget}]")
            assert state_of(gate, scope).settled_nanousd == COST
        assert state_of(gate, scope).rolling


async def test_one_call_counts_in_all_its_scopes() -> None:
    """Several budgets at once, several of one scope: each of them holds."""
    two = 'budget = ["1/hour", "5/week", { usd = 2, per = "24h", at = "warn" }]'
    more = f"[tags.run.42]\n{two}\n{MORE}"
    async with gateway(ANSWERS, more=more) as gate:
        await place(gate, "provider up", '"1/month"')
        assert (await asked(gate)).status == 200
        states = gate.daemon.server.daemon.gate.purse.states()
        assert [(one.scope, one.budget, one.settled_nanousd) for one in states] == [
            ("provider", "1/month", COST),
            ("tag", "1/hour", COST),
            ("tag", "5/week", COST),
            ("tag", "2/24h", COST),
        ]
        assert len({one.id for one in states}) == 4


async def test_a_full_provider_is_passed_over() -> None:
    """Its own budget makes the router take the next target; nothing is held meanwhile."""
    async with gateway(ANSWERS, ANSWERS, more=ROUTE) as gate:
        await change(gate, 'kind = "openai"', f'kind = "openai"\nbudget = ["{SMALL}/day"]')
        reply = await gate.ask(body(model="r"))
        assert (reply.status, reply.headers["x-tollway-target"]) == (200, "up1/b")
        assert reply.headers["x-tollway-attempts"] == "1"
        assert gate.ups[0].requests == []
        assert gate.held() == 0
        assert float(reply.headers["x-tollway-budget-remaining-usd"]) > 0.9


async def test_402_comes_when_no_target_is_left() -> None:
    """Every provider is full: the refusal names the first one's budget."""
    async with gateway(ANSWERS, ANSWERS, more=ROUTE) as gate:
        text = gate.daemon.config.read_text()
        await change(
            gate,
            text,
            text.replace('kind = "openai"', f'kind = "openai"\nbudget = ["{SMALL}/day"]'),
        )
        reply = await gate.ask(body(model="r"))
        assert (reply.status, error(reply)["code"]) == (402, "insufficient_quota")
        assert "provider `up`" in error(reply)["message"]
        row = await gate.row(reply)
        assert (row.call.state, row.attempts) == ("refused", ())


async def test_a_failure_before_a_full_provider_is_what_the_caller_hears() -> None:
    """One target failed, the other has no room: the first one's error tells more."""
    async with gateway([[reads(), resets()]], ANSWERS, more=ROUTE) as gate:
        budget = f'kind = "openai"\nbudget = ["{SMALL}/day"]\nbase_url = "http://127.0.0.1:{gate.ups[1].port}'
        was = f'kind = "openai"\nbase_url = "http://127.0.0.1:{gate.ups[1].port}'
        await change(gate, was, budget)
        reply = await gate.ask(body(model="r"))
        assert (reply.status, error(reply)["code"]) == (502, "upstream_broke")
        row = await gate.row(reply)
        assert (row.call.state, len(row.attempts)) == ("settled", 1)
        assert gate.held() == 0


async def test_what_an_attempt_cost_counts_while_the_next_one_waits() -> None:
    """Its end is written before the wait, so a budget that a reload adds meanwhile has it."""
    go = asyncio.Event()
    busy = [[reads(), waits(go), says(whole())], [reads(), says(whole())]]
    async with gateway([[reads(), resets()]], busy, more=ROUTE) as gate:
        slots = f'slots = 1\nbase_url = "http://127.0.0.1:{gate.ups[1].port}'
        await change(gate, f'base_url = "http://127.0.0.1:{gate.ups[1].port}', slots)
        first = asyncio.create_task(gate.ask(body(model="up1/b")))
        await until(lambda: bool(gate.ups[1].requests))
        second = asyncio.create_task(gate.ask(body(model="r")))
        daemon = gate.daemon.server.daemon
        await until(lambda: sum(one.waiting for one in daemon.queue.states()) == 1)
        await change(gate, "[teams.ml]", '[teams.ml]\nbudget = ["2/day", "2/24h"]')
        spent = [state_of_all(gate, text).settled_nanousd for text in ("2/day", "2/24h")]
        go.set()
        await first
        row = await gate.row(await second)
        broke, answered = row.attempts
        assert (broke.ending, answered.ending) == ("upstream_broke", "answered")
        assert spent == [broke.cost_nanousd] * 2
        assert broke.cost_nanousd == broke.hold_nanousd > 0
        total = broke.cost_nanousd + 2 * COST
        await until(lambda: state_of_all(gate, "2/day").held_nanousd == 0)
        assert state_of_all(gate, "2/day").settled_nanousd == total
        assert verify(daemon.ledger.path) == []


def state_of_all(gate: Gateway, budget: str) -> BudgetState:
    """Return how the only budget of this text stands."""
    states = gate.daemon.server.daemon.gate.purse.states()
    (found,) = [one for one in states if one.budget == budget]
    return found


async def test_all_tags_are_written_down() -> None:
    """Declared or not, a call's tags are in its row, as JSON."""
    async with gateway(ANSWERS) as gate:
        row = await gate.row(await gate.ask(x_tollway_tags=" run=42 , env=ci,x=a=b/c"))
        assert row.call.tags == '{"run":"42","env":"ci","x":"a=b/c"}'
        row = await gate.row(await gate.ask())
        assert row.call.tags == ""


@pytest.mark.parametrize(
    "tags",
    ["run", "=42", "run=", "run=1,run=2", "r n=1", "run=a b", "a=1,,b=2", "-run=1", "run=é",
     ",".join(f"t{number}=1" for number in range(17)), "run=" + "x" * 129, "t" * 65 + "=1"],
)  # fmt: skip
async def test_malformed_tags_are_refused_by_the_headers_name(tags: str) -> None:
    """Tags that cannot be read could have had a budget: 400, and nothing is sent."""
    async with gateway(ANSWERS) as gate:
        reply = await gate.ask(x_tollway_tags=tags)
        assert (reply.status, error(reply)["param"]) == (400, "x-tollway-tags")
        assert gate.ups[0].requests == []


async def test_a_key_may_demand_tags() -> None:
    """Without them its calls are refused, by the tag's name."""
    async with gateway(ANSWERS) as gate:
        await change(gate, "[keys.laptop]", '[keys.laptop]\nrequire_tags = ["run", "env"]')
        reply = await gate.ask(x_tollway_tags="run=42")
        assert reply.status == 400
        assert "`env`" in error(reply)["message"]
        assert (await gate.ask(x_tollway_tags="env=ci,run=42")).status == 200


def raised(usd: str, ends: datetime, scope: str = "user ann") -> str:
    """Return a temporary raise as TOML."""
    until_ = ends.isoformat(timespec="milliseconds")
    return f'[[raises]]\nscope = "{scope}"\nusd = {usd}\nuntil = {until_}\nby = "ann"\n'


async def test_a_raise_lifts_the_cap_until_it_ends() -> None:
    """It is applied when a call is admitted, and is gone without a reload."""
    async with gateway(ANSWERS, budget=f"{SMALL}/day") as gate:
        assert (await gate.ask()).status == 402
        ends = datetime.now(UTC) + timedelta(hours=1)
        config = gate.daemon.config
        config.write_text(config.read_text() + raised("2.5", ends))
        await gate.daemon.server.reloader.reload()
        assert (await gate.ask()).status == 200
        state = state_of(gate, "user ann")
        assert (state.limit_nanousd, state.base_nanousd) == (2_500_000_100, 100)
        assert state.raised_nanousd == 2_500_000_000
        # The books' clock is what time means to budgets, and it only goes on.
        gate.daemon.server.daemon.books._latest_ms = int(ends.timestamp() * 1000)
        assert state_of(gate, "user ann").raised_nanousd == 0
        assert (await gate.ask()).status == 402


@pytest.mark.parametrize(
    ("scope", "raised_"),
    [
        ("user ann day", [5, 0]),
        ("user ann week", [0, 5]),
        ("user ann", [5, 5]),
        ("team ml", [0, 0]),
    ],
)
async def test_a_raise_is_for_one_period_or_all_of_a_scope(scope: str, raised_: list[int]) -> None:
    """`team ml day` leaves the month alone."""
    async with gateway(ANSWERS, budget='1/day", "2/week') as gate:
        ends = datetime.now(UTC) + timedelta(days=1)
        config = gate.daemon.config
        config.write_text(config.read_text() + raised("3", ends, scope) + raised("2", ends, scope))
        await gate.daemon.server.reloader.reload()
        states = gate.daemon.server.daemon.gate.purse.states()
        assert [one.raised_nanousd for one in states] == [five * 10**9 for five in raised_]


async def test_a_raise_that_has_ended_raises_nothing() -> None:
    """The file may keep it."""
    async with gateway(ANSWERS, budget=f"{SMALL}/day") as gate:
        config = gate.daemon.config
        config.write_text(config.read_text() + raised("9", datetime(2020, 1, 1, tzinfo=UTC)))
        await gate.daemon.server.reloader.reload()
        assert (await gate.ask()).status == 402


async def test_a_rolling_budget_says_when_it_has_room_again() -> None:
    """It turns over at no moment: spending stops counting one by one."""
    async with gateway(ANSWERS, budget=f"{SMALL}/24h") as gate:
        told = error(await gate.ask())["message"]
        assert "Spending stops counting 24h after its call" in told
        await change(gate, f"{SMALL}/24h", "1/24h")
        began = time.time() * 1000
        assert (await gate.ask()).status == 200
        state = state_of(gate, "user ann")
        assert 24 * 3_600_000 < state.ends_ms - began < 24 * 3_600_000 + 16 * 60_000


async def test_rolling_budgets_and_tags_outlive_a_restart() -> None:
    """What they have spent is read from the ledger, bucket by bucket."""
    more = '[tags.run.42]\nbudget = ["1/day", "1/7d"]\n'
    async with gateway(ANSWERS, more=more, budget='1/24h", "1/30m') as gate:
        for _ in range(2):
            assert (await gate.ask(x_tollway_tags="run=42")).status == 200
        text = gate.daemon.config.read_text()
        path = gate.daemon.server.daemon.ledger.path
        await until(lambda: all(row.state == "settled" for row in recent(path, limit=9)))
        before = {
            one.id: one.settled_nanousd for one in gate.daemon.server.daemon.gate.purse.states()
        }
        assert set(before.values()) == {2 * COST}
        with short_folder() as kept:
            await gate.daemon.server.daemon.ledger.close()
            for file in gate.daemon.folder.glob("ledger.db*"):
                if not file.name.endswith(".lock"):
                    (kept / file.name).write_bytes(file.read_bytes())
            own = text[text.index("[providers.up]") :]
            async with running(own, server="", folder=kept) as again:
                states = again.server.daemon.gate.purse.states()
                assert {one.id: one.settled_nanousd for one in states} == before


async def test_reload_takes_a_budget_away_only_when_told() -> None:
    """A provider's, route's or tag's budget that is gone, or only warns, waits for a person."""
    more = f'[tags.run.42]\nbudget = ["2/day"]\n{MORE}'
    async with gateway(ANSWERS, more=more) as gate:
        await place(gate, "provider up", '"2/day"')
        path = gate.daemon.config
        old, text = load(path), path.read_text()
        path.write_text(text.replace('budget = ["2/day"]\n', ""))
        assert removed(old, load(path)) == ["providers.up.budget", "tags.run.42.budget"]
        path.write_text(text.replace('"2/day"', '{ usd = 2, per = "day", at = "warn" }'))
        assert removed(old, load(path)) == ["providers.up.budget", "tags.run.42.budget"]
        path.write_text(text.replace('"2/day"', '"3/day"'))
        assert removed(old, load(path)) == []
