"""Members see their own use and what is left of their budgets, and nothing of anybody else's."""

from hashlib import sha256
from typing import Any

from gateway import INPUT, KEY, OUTPUT, gateway, whole
from shell import Reply, running
from upstreams import answer, reads, says

from tollway.providers.money import plain_usd

COST = 7 * INPUT + 3 * OUTPUT
OTHER = "tw-" + "o" * 40
SECOND = "tw-" + "s" * 40
BOT = "tw-" + "b" * 40


def digest(key: str) -> str:
    """Return a key's hash, as the file has it."""
    return f"sha256:{sha256(key.encode()).hexdigest()}"


MORE = f"""
[users.bob]
team = "ml"
[projects.bot]
team = "ml"
[keys.other]
hash = "{digest(OTHER)}"
user = "bob"
budget = ["0.5/total"]
[keys.second]
hash = "{digest(SECOND)}"
user = "ann"
[keys.bot]
hash = "{digest(BOT)}"
project = "bot"
"""


def bearer(key: str) -> str:
    """Return a header's value that carries a key."""
    return f"Bearer {key}"


async def test_a_member_sees_its_own_use_by_model_over_all_its_keys() -> None:
    """Of the user where the key has one; what others spent is not in it."""
    async with gateway([[reads(), says(whole())]], more=MORE, server='budget = ["9/day"]') as gate:

        async def seen(key: str) -> dict[str, Any]:
            reply = await gate.daemon.ask("GET", "/v1/tollway/usage", authorization=bearer(key))
            assert reply.status == 200
            found: dict[str, Any] = reply.json()
            return found

        for key in (KEY, SECOND, SECOND, OTHER, BOT):
            assert (await gate.ask(authorization=bearer(key))).status == 200
        mine = await seen(KEY)
        assert mine["caller"] == {"key": "laptop", "user": "ann", "team": "ml", "project": ""}
        assert mine["of"] == {"scope": "user", "name": "ann"}
        assert mine["timezone"] == "UTC"
        for word in ("today", "month"):
            assert mine[word]["calls"] == 3
            assert mine[word]["cost_usd"] == plain_usd(3 * COST)
            (model,) = mine[word]["models"]
            assert (model["provider"], model["model"], model["calls"]) == ("up", "m", 3)
            assert (model["input_tokens"], model["output_tokens"]) == (21, 9)
        assert await seen(SECOND) | {"caller": 0} == mine | {"caller": 0}
        assert (await seen(OTHER))["today"]["cost_usd"] == plain_usd(COST)
        bot = await seen(BOT)
        assert bot["of"] == {"scope": "key", "name": "bot"}
        assert bot["today"]["calls"] == 1


async def test_refused_calls_are_counted_and_cost_nothing() -> None:
    """A member sees that calls were refused, not only that they are missing."""
    async with gateway([[reads(), says(whole())]], budget="0.0000001/day") as gate:
        refused = await gate.ask()
        assert refused.status == 402
        await gate.row(refused)
        reply = await gate.daemon.ask("GET", "/v1/tollway/usage", authorization=bearer(KEY))
        today = reply.json()["today"]
        assert (today["refused"], today["calls"], today["cost_usd"]) == (1, 0, "0")
        assert today["models"] == []


async def test_a_member_sees_what_is_left_and_when_it_turns_over() -> None:
    """Every budget that its calls must fit into: its own, its team's, the box's."""
    async with gateway([[reads(), says(whole())]], more=MORE, server='budget = ["9/day"]') as gate:
        assert (await gate.ask(authorization=bearer(OTHER))).status == 200
        reply = await gate.daemon.ask("GET", "/v1/tollway/budgets", authorization=bearer(OTHER))
        budgets = {one["scope"]: one for one in reply.json()["budgets"]}
        assert budgets.keys() == {"box", "key"}
        key = budgets["key"]
        assert (key["name"], key["budget"], key["at"]) == ("other", "0.5/total", "hard")
        assert key["settled_usd"] == plain_usd(COST)
        assert key["held_usd"] == "0"
        assert key["left_usd"] == plain_usd(500_000_000 - COST)
        assert key["turns_over"] is None
        assert budgets["box"]["turns_over"].endswith("T00:00:00+00:00")
        mine = await gate.daemon.ask("GET", "/v1/tollway/budgets", authorization=bearer(KEY))
        assert {one["scope"] for one in mine.json()["budgets"]} == {"box", "user"}


async def test_nobody_sees_anything_without_a_key() -> None:
    """401, as at every path that is a caller's."""
    async with gateway([[reads(), says(whole())]]) as gate:
        for path in ("/v1/tollway/usage", "/v1/tollway/budgets"):
            reply = await gate.daemon.ask("GET", path)
            assert reply.status == 401
            assert reply.json()["error"]["code"] == "invalid_api_key"


async def test_a_single_user_sees_its_use_without_a_key() -> None:
    """`local`, to whom all is billed there."""
    async with running() as daemon:
        reply: Reply = await daemon.ask("GET", "/v1/tollway/usage")
        assert reply.status == 200
        assert reply.json()["of"] == {"scope": "user", "name": "local"}
        assert reply.json()["month"]["models"] == []
        assert (await daemon.ask("GET", "/v1/tollway/budgets")).json()["budgets"] == []


async def test_a_day_begins_where_the_server_s_time_zone_says() -> None:
    """Both ends stand in the answer, with their offset."""
    async with gateway([[reads(), says(answer())]], server='timezone = "Asia/Kathmandu"') as gate:
        reply = await gate.daemon.ask("GET", "/v1/tollway/usage", authorization=bearer(KEY))
        assert reply.json()["today"]["since"].endswith("T00:00:00+05:45")
        assert reply.json()["month"]["since"][8:] == "01T00:00:00+05:45"
