"""Reload is all or nothing, and a file that changed by itself takes nothing away."""

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shell import Running, running, short_folder, until

from tollway.daemon.audit import changed
from tollway.daemon.config.edit import kept
from tollway.daemon.config.load import parse
from tollway.daemon.config.schema import (
    Budget,
    Config,
    Group,
    Key,
    LedgerFile,
    Member,
    Server,
    Team,
)
from tollway.daemon.errors import ConfigError
from tollway.daemon.reload import Reloader, removed

TEAM = '[teams.ml]\nbudget = ["5/day"]\n'
ZEROS = "sha256:" + "0" * 64


def rewrite(daemon: Running, old: str, new: str) -> None:
    """Replace a piece of the daemon's file."""
    text = daemon.config.read_text()
    assert old in text
    daemon.config.write_text(text.replace(old, new))


async def post_reload(daemon: Running) -> tuple[int, Any]:
    """Ask for a reload over the admin socket."""
    answer = await daemon.ask("POST", "/control/reload", admin=True)
    return answer.status, answer.json()


async def config_state(daemon: Running) -> Any:
    """Return what status says about the configuration."""
    return (await daemon.ask("GET", "/control/status", admin=True)).json()["config"]


async def test_a_reload_says_what_changed_and_swaps_the_gate() -> None:
    """Dotted keys, as they stand in the file."""
    async with running(TEAM) as daemon:
        before = daemon.server.daemon.gate
        read_at = (await config_state(daemon))["loaded_at"]
        rewrite(daemon, '"5/day"', '"6/day"')
        said = {"changed": ["teams.ml.budget"], "renewed": [], "needs_restart": []}
        assert await post_reload(daemon) == (200, said | {"since": read_at})
        assert daemon.server.daemon.gate is not before
        assert daemon.server.daemon.gate.config is daemon.server.daemon.config


async def test_a_reload_says_whose_secret_is_another_under_the_same_name() -> None:
    """Who renews one and reloads asks whether it is taken up; which it is, nobody is told."""
    up = 'kind = "vllm"\nbase_url = "http://127.0.0.1:1/v1"\n'
    with short_folder() as folder:
        for name in ("one", "two"):
            (folder / name).touch(0o600)
            (folder / name).write_text(f"sk-secret-{name}")
        more = (
            f'[providers.up]\n{up}api_key = "file:one"\n'
            f'[providers.up2]\n{up}api_keys = ["file:two", "env:PATH"]\n'
        )
        async with running(more, folder=folder) as daemon:
            assert (await post_reload(daemon))[1]["renewed"] == []
            (folder / "one").write_text("sk-secret-renewed")
            assert (await post_reload(daemon))[1]["renewed"] == ["providers.up.api_key"]
            (folder / "two").write_text("sk-secret-renewed")
            assert (await post_reload(daemon))[1]["renewed"] == ["providers.up2.api_keys"]
            assert (await post_reload(daemon))[1]["renewed"] == []
            rewrite(daemon, "file:one", "file:two")
            said = (await post_reload(daemon))[1]
            assert (said["changed"], said["renewed"]) == (["providers.up.api_key"], [])


async def test_a_reload_tells_what_stands_in_the_file_and_no_default() -> None:
    """In the file's own words: names in quotes where it needs them, one value for `listen`."""
    async with running(TEAM) as daemon:
        before = daemon.config.read_text()
        more = (
            '[users.ann]\n[providers.up]\nkind = "vllm"\nbase_url = "http://127.0.0.1:1/v1"\n'
            '[prices."up/bench"]\ninput = 1\noutput = 2\n'
        )
        daemon.config.write_text(before + more)
        added = [
            'prices."up/bench".input',
            'prices."up/bench".output',
            "providers.up.base_url",
            "providers.up.kind",
            "users.ann",
        ]
        assert (await post_reload(daemon))[1]["changed"] == added
        rewrite(daemon, "[users.ann]", '[users.ann]\nteam = "ml"')
        assert (await post_reload(daemon))[1]["changed"] == ["users.ann.team"]
        daemon.config.write_text(before)
        gone = [*added[:-1], "users.ann.team"]
        assert (await post_reload(daemon))[1]["changed"] == gone


async def test_what_changed_stands_in_the_audit() -> None:
    """Who changed what, from what to what; what could be a secret is named without its value."""
    more = TEAM + f'[keys.k]\nhash = "{ZEROS}"\nuser = "u"\n[users.u]\nteam = "ml"\n'
    async with running(more, server="") as daemon:
        rewrite(daemon, '"5/day"', '"6/day"')
        rewrite(daemon, ZEROS, ZEROS.replace("0", "1"))
        assert (await post_reload(daemon))[0] == 200
        await daemon.server.daemon.ledger.ready()
        with contextlib.closing(sqlite3.connect(daemon.folder / "ledger.db")) as ledger:
            rows = ledger.execute(
                "select who, subject, before, after from audit where what = 'edited by hand'"
            ).fetchall()
        assert [row[:2] for row in rows] == [
            ("owner", str(daemon.config)),
            ("owner", "keys.k.hash"),
            ("owner", "teams.ml.budget"),
        ]
        rows = rows[1:]
        assert rows[0][2:] in {("", ""), (None, None)}
        assert rows[1][2:] == ('["5/day"]', '["6/day"]')


async def test_a_broken_file_leaves_the_old_configuration_serving() -> None:
    """Status names the line, until a file that works takes over."""
    async with running(TEAM) as daemon:
        before = daemon.server.daemon.gate
        rewrite(daemon, "budget", "bugdet")
        status, said = await post_reload(daemon)
        assert status == 500
        assert said["error"]["code"] == "config_invalid"
        assert daemon.server.daemon.gate is before
        state = await config_state(daemon)
        assert state["state"] == "broken"
        assert "gateway.toml:" in state["problem"]
        assert (await daemon.ask("GET", "/v1/models")).status == 200
        rewrite(daemon, "bugdet", "budget")
        assert (await post_reload(daemon))[0] == 200
        assert (await config_state(daemon))["state"] == "ok"


async def test_a_file_that_is_gone_is_broken_too() -> None:
    """Nothing to read is no reason to stop serving."""
    async with running() as daemon:
        daemon.config.unlink()
        assert (await post_reload(daemon))[0] == 500
        assert (await config_state(daemon))["state"] == "broken"
        assert (await daemon.ask("GET", "/v1/models")).status == 200


async def test_a_secret_that_is_missing_leaves_the_old_gate() -> None:
    """Building the gate can fail after the file has been read: still nothing changes."""
    async with running() as daemon:
        before = daemon.server.daemon.gate
        with daemon.config.open("a") as file:
            file.write('[providers.p]\nkind = "openai"\napi_key = "env:TOLLWAY_NO_SUCH_SECRET"\n')
        status, said = await post_reload(daemon)
        assert status == 503
        assert "TOLLWAY_NO_SUCH_SECRET" in said["error"]["message"]
        assert daemon.server.daemon.gate is before
        assert daemon.server.daemon.config is before.config


async def test_what_is_fixed_at_the_start_is_named_and_the_rest_applied() -> None:
    """An address cannot change under a running daemon; the budgets beside it can."""
    async with running(TEAM) as daemon:
        rewrite(daemon, "127.0.0.1:0", "127.0.0.1:1")
        rewrite(daemon, '"5/day"', '"6/day"')
        status, said = await post_reload(daemon)
        assert status == 200
        assert said["changed"] == ["server.listen", "teams.ml.budget"]
        assert said["needs_restart"] == ["server.listen"]
        assert (await config_state(daemon))["needs_restart"] == ["server.listen"]
        rewrite(daemon, "127.0.0.1:1", "127.0.0.1:0")
        assert (await post_reload(daemon))[1]["needs_restart"] == []


async def test_the_log_follows_a_reload() -> None:
    """`log_level` and `log_format` need no restart."""
    async with running() as daemon:
        rewrite(daemon, "single_user", 'log_level = "error"\nsingle_user')
        assert (await post_reload(daemon))[0] == 200
        daemon.server.output.flush()
        size = daemon.log.stat().st_size
        await daemon.ask("GET", "/healthz")
        daemon.server.output.flush()
        assert daemon.log.stat().st_size == size


async def watched(daemon: Running) -> Reloader:
    """Put a watcher that looks more often in the place of the daemon's."""
    reloader = daemon.server.reloader
    reloader.every_s, reloader.still_s = 0.01, 0.02
    return reloader


async def test_a_file_that_changed_is_loaded_by_itself() -> None:
    """`server.watch` is on by default: an edit needs no command."""
    async with running(TEAM) as daemon:
        reloader = await watched(daemon)
        before = daemon.server.daemon.gate
        rewrite(daemon, '"5/day"', '"6/day"')
        await until(lambda: daemon.server.daemon.gate is not before)
        assert reloader.state.state == "ok"


async def test_an_editor_that_replaces_the_file_is_noticed() -> None:
    """Most editors write another file and rename it over the old one."""
    async with running(TEAM) as daemon:
        await watched(daemon)
        before = daemon.server.daemon.gate
        fresh = daemon.folder / "fresh"
        fresh.write_text(daemon.config.read_text().replace('"5/day"', '"6/day"'))
        fresh.chmod(0o600)
        fresh.rename(daemon.config)
        await until(lambda: daemon.server.daemon.gate is not before)


async def test_a_file_that_broke_by_itself_is_reported_and_harmless() -> None:
    """Half a file is what an editor may leave for a moment."""
    async with running(TEAM) as daemon:
        reloader = await watched(daemon)
        before = daemon.server.daemon.gate
        daemon.config.write_text("[server")
        await until(lambda: reloader.state.state == "broken")
        assert daemon.server.daemon.gate is before


async def test_a_budget_that_went_missing_by_itself_waits_for_a_person() -> None:
    """A half-written file can be valid: what it lacks may be the budget."""
    async with running(TEAM) as daemon:
        reloader = await watched(daemon)
        before = daemon.server.daemon.gate
        rewrite(daemon, 'budget = ["5/day"]', "")
        await until(lambda: reloader.state.state == "pending")
        assert daemon.server.daemon.gate is before
        state = await config_state(daemon)
        assert "teams.ml.budget" in state["problem"]
        assert "tollway reload" in state["hint"]
        assert (await post_reload(daemon))[0] == 200
        assert daemon.server.daemon.gate is not before
        assert (await config_state(daemon))["state"] == "ok"


async def test_a_removal_that_is_taken_back_is_no_longer_pending() -> None:
    """The rest of the file arrived."""
    async with running(TEAM) as daemon:
        reloader = await watched(daemon)
        rewrite(daemon, 'budget = ["5/day"]', "")
        await until(lambda: reloader.state.state == "pending")
        with daemon.config.open("a") as file:
            file.write('budget = ["5/day"]\n')
        await until(lambda: reloader.state.state == "ok")


async def test_without_watch_nothing_happens_by_itself() -> None:
    """Whoever turns it off reloads by hand."""
    async with running(TEAM, server="single_user = true\nwatch = false") as daemon:
        reloader = await watched(daemon)
        before = daemon.server.daemon.gate
        rewrite(daemon, '"5/day"', '"6/day"')
        looks = reloader.looks
        await until(lambda: reloader.looks > looks + 10)
        assert daemon.server.daemon.gate is before
        assert (await post_reload(daemon))[1]["changed"] == ["teams.ml.budget"]


async def test_a_hundred_reloads_under_load_drop_no_call() -> None:
    """One in ten is broken; every call in between is answered, under one whole configuration."""
    async with running(TEAM) as daemon:
        good = daemon.config.read_text()
        for number in range(100):
            amount = number + 6
            text = good.replace('"5/day"', f'"{amount}/day"')
            daemon.config.write_text(text[:40] if number % 10 == 9 else text)
            try:
                await daemon.server.reloader.reload()
                assert number % 10 != 9
                assert daemon.server.daemon.config.teams["ml"].budget[0].nanousd == amount * 10**9
            except ConfigError:
                assert number % 10 == 9
            assert (await daemon.ask("GET", "/v1/models")).status == 200


def config(**fields: Any) -> Config:
    """Return a configuration with some fields."""
    return Config(path=Path("/c/gateway.toml"), ledger=LedgerFile(path=Path("/l.db")), **fields)


FIVE = Budget(5 * 10**9, "day")
FULL = config(
    server=Server(budget=(FIVE,)),
    keys={"k": Key(ZEROS, user="u", budget=(FIVE,), models=("m",))},
    users={"u": Member(team="t", groups=("g",), budget=(FIVE, Budget(1, "month")))},
    teams={"t": Team(groups=("g",), budget=(FIVE,))},
    groups={"g": Group(models=("*",), excluded=("o1", "o2"))},
)


@pytest.mark.parametrize(
    ("fields", "lost"),
    [
        ({"keys": {}}, ["keys.k"]),
        ({"users": {}}, ["users.u"]),
        ({"teams": {}}, ["teams.t"]),
        ({"server": Server()}, ["server.budget"]),
        ({"keys": {"k": Key(ZEROS, user="u", budget=(FIVE,))}}, ["keys.k.models"]),
        ({"keys": {"k": Key(ZEROS, user="u", models=("m",))}}, ["keys.k.budget"]),
        ({"users": {"u": Member(team="t", groups=("g",), budget=(FIVE,))}}, ["users.u.budget"]),
        (
            {"users": {"u": Member(groups=("g",), budget=(FIVE, Budget(1, "month")))}},
            ["users.u.team"],
        ),
        ({"groups": {"g": Group(models=("*",), excluded=("o1",))}}, ["groups.g.except"]),
        ({"groups": {"g": Group(models=("*",), excluded=("o1", "o2", "o3"))}}, []),
        ({"server": Server(budget=(Budget(1, "day"),))}, []),
        ({"server": Server(budget=(FIVE, FIVE))}, []),
        ({"teams": {**FULL.teams, "new": Team()}}, []),
    ],
)
def test_what_held_callers_back_and_is_gone_is_named(
    fields: dict[str, Any], lost: list[str]
) -> None:
    """A budget with another amount is still there; a new `except` takes nothing away."""
    assert removed(FULL, msgspec.structs.replace(FULL, **fields)) == lost


budgets = st.lists(
    st.builds(Budget, st.integers(1, 9), st.sampled_from(["day", "week", "month"])), max_size=3
).map(tuple)
holders = st.dictionaries(st.sampled_from("abc"), st.builds(Team, budget=budgets), max_size=3)


@given(holders, holders)
def test_nothing_changed_means_nothing_removed_and_every_loss_is_a_change(
    old: dict[str, Team], new: dict[str, Team]
) -> None:
    """`removed` never speaks of what `changed` does not see."""
    before, after = (
        parse(
            "".join(
                f"[teams.{name}]\nbudget = {json.dumps([one.text for one in team.budget])}\n"
                for name, team in teams.items()
            ),
            path=Path("/c/gateway.toml"),
        )
        for teams in (old, new)
    )
    assert (before.teams, after.teams) == (old, new)
    assert changed(before, before) == removed(before, before) == []
    assert not removed(before, after) or changed(before, after)
    # Whoever was held back by a period's budget before still is, or it is told.
    told = removed(before, after)
    for name, team in old.items():
        for budget in team.budget:
            kept = {one.period for one in new[name].budget} if name in new else set()
            assert budget.period in kept or any(key.startswith(f"teams.{name}") for key in told)


async def test_a_version_that_was_served_is_in_the_history() -> None:
    """What a person wrote by hand is kept once it serves, so that a later mistake can be undone."""
    async with running() as one:
        config = one.server.daemon.config
        await until(lambda: len(kept(config)) == 1)
        one.config.write_text(one.config.read_text() + "\n[teams.a]\n")
        await one.server.reloader.reload()
        assert len(kept(config)) == 2
