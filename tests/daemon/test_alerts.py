"""Each alert is told once, to everyone who is to be told, and nobody's call waits for it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from alerts_told import DAY_MS, START_MS, USD, configured, looked, parts, state, telling
from gateway import gateway, whole
from hypothesis import given, settings
from hypothesis import strategies as st
from shell import until
from upstreams import Upstream, answer, reads, says, stalls, upstream

from tollway.daemon.alert_channels import Notice
from tollway.daemon.alerts import Alerts
from tollway.daemon.errors import ConfigError
from tollway.providers.http.client import HttpTransport


async def test_each_part_is_told_once_and_a_restart_tells_none_again(tmp_path: Path) -> None:
    """The ledger remembers: a daemon that restarts at 85 % has nothing new to say."""
    async with telling(tmp_path) as alerts:
        assert await looked(alerts, state(4 * USD)) == []
        assert await looked(alerts, state(5 * USD), state(5 * USD), state(6 * USD)) == ["0.5"]
        assert await looked(alerts, state(8 * USD)) == ["0.5", "0.8"]
    async with (
        upstream([reads(), says(answer())]) as hook,
        telling(tmp_path, f'webhook = "{hook.url}"') as alerts,
    ):
        assert await looked(alerts, state(8 * USD)) == ["0.8"]  # for `status` alone
        assert hook.requests == []
        assert await looked(alerts, state(10 * USD)) == ["0.8", "1"]
        assert len(hook.requests) == 1


async def test_parts_that_are_passed_together_are_one_alert(tmp_path: Path) -> None:
    """A first call that spends 90 % is no reason for two messages."""
    async with telling(tmp_path) as alerts:
        assert await looked(alerts, state(9 * USD), state(9 * USD)) == ["0.8"]
        assert "reached 80 %" in alerts.recent[0].text
        assert "$9.00 of $10.00 spent" in alerts.recent[0].text


@pytest.mark.parametrize(
    "fields",
    [
        {"starts_ms": START_MS + DAY_MS},
        {"name": "web"},
        {"scope": "user"},
        {"budget": "12/day", "limit_nanousd": 12 * USD},
        {"limit_nanousd": 11 * USD},  # raised for a time
        {"budget": "10/week"},
    ],
    ids=["next period", "name", "scope", "amount", "raise", "period"],
)
async def test_another_budget_or_period_is_told_anew(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    """What was told of one says nothing of the next."""
    async with telling(tmp_path) as alerts:
        assert await looked(alerts, state(7 * USD), state(7 * USD, **fields)) == ["0.5", "0.5"]


async def test_a_rolling_budget_is_told_once_for_its_span(tmp_path: Path) -> None:
    """Its window ends at another moment each time it is looked at; that is no new period."""
    async with telling(tmp_path) as alerts:
        rolling = [
            state(6 * USD, budget="10/300d", rolling=True, starts_ms=START_MS + number)
            for number in range(5)
        ]
        assert await looked(alerts, *rolling) == ["0.5"]


async def test_a_budget_that_warns_says_when_it_was_passed(tmp_path: Path) -> None:
    """It has no refusal to say it, so it says so even where `at` leaves that out."""
    async with telling(tmp_path, "at = [0.5]") as alerts:
        assert await looked(alerts, state(11 * USD, at="warn")) == ["1"]
        assert "is passed, 100 %, and only warns" in alerts.recent[0].text
        assert await looked(alerts, state(11 * USD, name="web")) == ["1", "0.5"]


async def test_a_refusal_tells_that_a_budget_is_full(tmp_path: Path) -> None:
    """Holds keep a hard budget from ever being spent to the last cent."""
    async with telling(tmp_path) as alerts:
        alerts.refused(state(USD))  # the call was too large, not the budget spent
        alerts.refused(state(9 * USD))
        alerts.refused(state(9 * USD))
        await alerts.settled()
        assert parts(alerts) == ["1"]
        assert "has no room for another call" in alerts.recent[0].text
        assert await looked(alerts, state(9 * USD), state(10 * USD)) == ["1"]


class Claimed:
    """Remembers names, as the ledger does, without a file."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def alert(self, name: str, at_ms: int) -> asyncio.Future[bool]:
        """Remember a name; the future says whether it was new."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        done.set_result(name not in self.names)
        self.names.add(name)
        return done


@settings(max_examples=50, deadline=None)
@given(
    at=st.lists(st.integers(1, 100), max_size=5),
    spending=st.lists(st.tuples(st.integers(0, 15 * USD), st.booleans()), max_size=12),
)
async def test_no_part_is_told_twice_and_the_highest_always(
    at: list[int], spending: list[tuple[int, bool]]
) -> None:
    """However spending moves, and whenever the daemon restarts (True) in between."""
    claims, told = Claimed(), []
    said = ", ".join(f"{part / 100}" for part in at)
    config = configured(f"at = [{said}]", Path("/"))
    transport = HttpTransport()
    most = 0
    alerts = Alerts(claims, transport)
    for spent, restart in spending:
        if restart:
            alerts = Alerts(claims, transport)
        alerts.configure(config)
        shown = len(alerts.recent)
        known = set(claims.names)
        alerts.look([state(spent)])
        await alerts.settled()
        most = max(most, spent)
        told += [one for one in list(alerts.recent)[shown:] if one.id not in known]
    await transport.close()
    names = [one.id for one in told]
    assert len(names) == len(set(names))
    passed = [part for part in at if most * 100 >= part * 10 * USD and most > 0]
    assert bool(told) == bool(passed)
    if passed:
        assert max(float(one.facts["part"] or 0) for one in told) == max(passed) / 100


# --- webhook --------------------------------------------------------------------------------------


def posted(hook: Upstream) -> list[dict[str, Any]]:
    """Return the bodies that a webhook got."""
    return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in hook.requests]


async def test_the_webhook_gets_json_with_words_and_amounts(tmp_path: Path) -> None:
    """`text` is what chat services show; the rest is for programs, dollars as exact text."""
    async with (
        upstream([reads(), says(answer())]) as hook,
        telling(tmp_path, f'webhook = "{hook.url}"') as alerts,
    ):
        await looked(alerts, state(5_000_000_001))
        (body,) = posted(hook)
        assert body["kind"] == "budget"
        assert body["text"] == alerts.recent[0].text
        assert (body["scope"], body["name"], body["budget"]) == ("team", "ml", "10/day")
        assert (body["settled_usd"], body["limit_usd"]) == ("5.000000001", "10")
        assert body["id"] == alerts.recent[0].id
        assert b"POST /v1/chat/completions" in hook.requests[0]
        assert b"content-type: application/json" in hook.requests[0].lower()
        assert alerts.channels.problems == ()


async def test_a_webhook_that_fails_is_tried_again_with_the_same_id(tmp_path: Path) -> None:
    """Whoever gets it twice can tell by the id."""
    failing = [reads(), says(answer(status="503 Busy"))]
    async with (
        upstream(failing, failing, [reads(), says(answer())]) as hook,
        telling(tmp_path, f'webhook = "{hook.url}"') as alerts,
    ):
        await looked(alerts, state(5 * USD))
        assert len({body["id"] for body in posted(hook)}) == 1
        assert len(hook.requests) == 3
        assert alerts.channels.problems == ()


@pytest.mark.parametrize(
    ("script", "tries", "words"),
    [
        ([reads(), says(answer(status="400 Bad"))], 1, "HTTP 400"),
        ([reads(), says(answer(status="302 Found"))], 1, "HTTP 302"),
        ([reads(), says(answer(status="500 Broken"))], 3, "HTTP 500"),
        ([reads(), says(answer(status="429 Slow down"))], 3, "HTTP 429"),
        ([reads(), stalls()], 3, "in time"),
        ([reads()], 3, "cannot be reached"),
    ],
    ids=["400", "302", "500", "429", "silence", "hang up"],
)
async def test_a_webhook_that_never_works_is_given_up_and_shown(
    tmp_path: Path, script: list[Any], tries: int, words: str
) -> None:
    """`status` says what is wrong with it, without its address, which may be a secret."""
    async with (
        upstream(script) as hook,
        telling(tmp_path, f'webhook = "{hook.url}"') as alerts,
    ):
        if words == "in time":  # whoever does answer may be late, on a machine that has much to do
            alerts.channels.post_within_s = 0.2
        await looked(alerts, state(5 * USD))
        assert len(hook.requests) == tries
        (problem,) = alerts.channels.problems
        assert words in problem
        assert str(hook.port) not in problem


async def test_a_webhook_that_works_again_is_no_problem_any_more(tmp_path: Path) -> None:
    """What stands in `status` is how it went the last time."""
    async with (
        upstream([reads(), says(answer(status="400 Bad"))], [reads(), says(answer())]) as hook,
        telling(tmp_path, f'webhook = "{hook.url}"') as alerts,
    ):
        await looked(alerts, state(5 * USD))
        assert alerts.channels.problems
        await looked(alerts, state(8 * USD))
        assert alerts.channels.problems == ()


async def test_a_webhook_s_address_may_be_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """env:, file: and keyring: stand for the URL; one that is missing is a problem by its name."""
    async with upstream([reads(), says(answer())]) as hook:
        monkeypatch.setenv("ALERT_HOOK", hook.url)
        async with telling(tmp_path, 'webhook = "env:ALERT_HOOK"') as alerts:
            await looked(alerts, state(5 * USD))
            assert len(hook.requests) == 1
            monkeypatch.delenv("ALERT_HOOK")
            await looked(alerts, state(8 * USD))
            (problem,) = alerts.channels.problems
            assert "ALERT_HOOK" in problem


@pytest.mark.parametrize(
    ("alerts", "words"),
    [
        ('webhook = "https://hooks.example/services/T0AB12CD3/B0123/s3cr3tTOKENs3cr3tTOKEN99x1"',
         "holds a secret"),
        ('webhook = "ftp://x"', "expected a URL"),
        ('webhook = "https://u:p@x/"', "expected a URL"),
        ("at = [0]", "expected over 0"),
        ('at = ["half"]', "expected a part"),
        ("at = 0.5", "expected a list"),
        ('command = "notify"', "expected a list"),
        ('command = [""]', "names no program"),
        ('url = "x"', "unknown key"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_with_their_line(alerts: str, words: str) -> None:
    """A webhook's address that is a secret belongs where secrets are."""
    with pytest.raises(ConfigError) as refused:
        configured(alerts, Path("/"))
    assert words in refused.value.message
    assert ":2: server.alerts" in refused.value.message
    assert "TOKEN" not in refused.value.message


async def test_what_cannot_be_told_in_time_is_bounded(tmp_path: Path) -> None:
    """A webhook that hangs must not fill the memory with what it was to be told."""
    async with (
        upstream([reads(), stalls()]) as hook,
        telling(tmp_path, f'webhook = "{hook.url}"') as alerts,
    ):
        for number in range(300):
            alerts.channels.put(Notice(id=str(number), kind="budget", at=0.0, text="x"))
        assert alerts.channels.problems == ("more alerts wait for the webhook than can be kept",)


# --- in the daemon --------------------------------------------------------------------------------


async def test_no_call_waits_for_a_webhook_that_hangs() -> None:
    """Alerts are told beside the calls; the calls that fill the budget are all answered."""
    async with (
        upstream([reads(), stalls()]) as hook,
        gateway(
            [[reads(), says(whole())]],
            budget="0.01/day",
            server=f'alerts = {{ at = [0.01], webhook = "{hook.url}" }}',
        ) as gate,
    ):
        for _ in range(9):
            assert (await gate.ask()).status == 200
        await until(lambda: len(hook.requests) == 1)
        assert (await gate.ask()).status == 200
        told = gate.daemon.server.daemon.alerts.recent
        assert [one.facts["part"] for one in told] == ["0.01"]
        assert posted(hook)[0]["scope"] == "user"
        status = (await gate.daemon.ask("GET", "/control/status", admin=True)).json()
        assert [one["text"] for one in status["alerts"]] == [posted(hook)[0]["text"]]


async def test_a_budget_that_refuses_is_told_once_and_one_that_warns_lets_pass() -> None:
    """The first refusal says it; the thousandth tells nobody anything new."""
    more = '[teams.ops]\nbudget = [{ usd = 0.00001, per = "week", at = "warn" }]\n'
    async with gateway([[reads(), says(whole())]], more=more, budget="0.0035/day") as gate:
        text = gate.daemon.config.read_text().replace('team = "ml"', 'team = "ops"')
        gate.daemon.config.write_text(text.replace("[teams.ops]", '[teams.ops]\ngroups = ["all"]'))
        await gate.daemon.server.reloader.reload()
        statuses = set()
        while 402 not in statuses:
            statuses.add((await gate.ask()).status)
        for _ in range(3):
            assert (await gate.ask()).status == 402
        alerts = gate.daemon.server.daemon.alerts
        await until(lambda: any(one.facts["mode"] == "warn" for one in alerts.recent))
        await alerts.settled()
        told = {(one.facts["scope"], one.facts["part"]) for one in alerts.recent}
        assert {("team", "1")} <= told <= {("team", "1"), ("user", "0.5"), ("user", "0.8"),
                                           ("user", "1")}  # fmt: skip
        assert len(alerts.recent) == len(told)
        assert statuses == {200, 402}


async def test_a_ledger_in_trouble_is_told_and_so_is_its_recovery() -> None:
    """The one thing that is told without the ledger's help."""
    async with (
        upstream([reads(), says(answer())]) as hook,
        gateway(
            [[reads(), says(whole())]], server=f'alerts = {{ webhook = "{hook.url}" }}'
        ) as gate,
    ):
        path = gate.daemon.server.daemon.ledger.path
        away = path.with_name("away")
        path.rename(away)

        async def refused() -> bool:
            return (await gate.ask()).status == 503

        await until(refused)
        await until(lambda: len(hook.requests) == 1)
        away.rename(path)
        await until(lambda: len(hook.requests) == 2)
        first, second = posted(hook)
        assert (first["kind"], second["kind"]) == ("ledger", "ledger_back")
        assert str(path) in first["text"]


async def test_an_upstream_that_passes_its_limit_is_told_once_an_hour() -> None:
    """The overrun is booked each time; the owner hears of it once."""
    over = whole().replace(b'"completion_tokens":3', b'"completion_tokens":900')
    over = whole(over.partition(b"\r\n\r\n")[2])
    async with gateway([[reads(), says(over)]]) as gate:
        for _ in range(3):
            row = await gate.row(await gate.ask())
            assert row.call.overrun_nanousd > 0
        alerts = gate.daemon.server.daemon.alerts
        await alerts.settled()
        told = [one for one in alerts.recent if one.kind == "overrun"]
        # Three calls can lie on both sides of an hour's end.
        assert 1 <= len(told) <= 2
        assert told[0].facts["target"] == "up/m"
