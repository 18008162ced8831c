"""`routes explain`: what would become of a call, told without sending it."""

from typing import Any

import msgspec
from gateway import Gateway, body, gateway, whole
from upstreams import reads, says

from tollway.daemon.gate.affinity import Kept
from tollway.daemon.gate.explanation import Explanation

ANSWERS = [[reads(), says(whole())]]
ROUTE = """[routes.r]
to = [{ target = "up/a", weight = 1 }, { target = "up1/b", weight = 3 }]
strategy = "weighted"
fallback = ["spare"]
when = [
    { tag.env = "ci", tools = true, to = ["up/tools"] },
    { header.x-tier = "batch", team = "ml", strategy = "cheapest", max_output = 7 },
    { input_over = 500, to = ["up/secret", "up/large"] },
]
[routes.spare]
to = ["up/spare"]
[groups.most]
models = ["*"]
except = ["up/secret"]
[users.ben]
groups = ["most"]
[keys.other]
hash = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
user = "ben"
"""


async def explained(gate: Gateway, **question: Any) -> Explanation:
    """Return the daemon's answer to a question about the route."""
    said = msgspec.json.encode({"model": "r", "key": "laptop", "tokens": 100} | question)
    reply = await gate.daemon.ask("POST", "/control/explain", said, admin=True)
    assert reply.status == 200, reply.body
    return msgspec.json.decode(reply.body, type=Explanation)


def order(said: Explanation) -> list[str]:
    """Return the targets that the call would be tried at."""
    return [one.target for one in said.targets if one.chosen]


async def test_it_says_what_each_condition_saw() -> None:
    """Up to the first case that takes the call; what such a call does not reach is told apart."""
    tools = {"messages": [{"role": "user", "content": "Hi"}], "tools": [{"type": "function"}]}
    async with gateway(ANSWERS, ANSWERS, more=ROUTE) as gate:
        plain = await explained(gate)
        batch = await explained(gate, headers={"X-Tier": "batch"}, output=50)
        tagged = await explained(gate, tags=["env=ci"], body=tools)
        assert gate.ups[0].requests == [] == gate.ups[1].requests
        assert gate.held() == 0
    assert order(plain) == ["up1/b", "up/a", "up/spare"]
    assert [one.weight for one in plain.targets[:2]] == [3, 1]
    assert [case.takes for case in plain.cases] == [False, False, False]
    saw = {one.condition: (one.seen, one.holds) for case in plain.cases for one in case.conditions}
    assert saw["tag.env = ci"] == ("none", False)
    assert saw["team = ml"] == ("ml", True)
    assert saw["input_over = 500"] == ("100", False)
    assert order(batch) == ["up/a", "up1/b", "up/spare"]
    assert [case.takes for case in batch.cases] == [False, True]
    assert [one.case for one in batch.targets[:3]] == ["when[1]", "when[1]", ""]
    assert [one.changed for one in batch.targets[:3]] == [("output=7",), ("output=7",), ()]
    assert batch.targets[0].expected_nanousd == 100 * 1000 + 7 * 2000
    assert order(tagged) == ["up/tools", "up/spare"]
    assert {one.why for one in tagged.targets if not one.chosen} == {"not for such a call"}


async def test_a_target_for_other_calls_is_told_as_such_where_no_money_is_left() -> None:
    """What its hold would be says nothing: such a call does not go there."""
    async with gateway(ANSWERS, ANSWERS, more=ROUTE, budget="0.000001/day") as gate:
        batch = await explained(gate, headers={"X-Tier": "batch"})
    assert batch.refused.startswith("The budget 0.000001/day of ")
    away = {one.target: one.why for one in batch.targets if not one.chosen}
    assert away["up/tools"] == "not for such a call"
    assert {one.why for one in batch.targets if one.chosen} != {""}


async def test_what_a_key_may_not_call_is_no_way_out() -> None:
    """A target that is left out for this key is told, and does not count as an answer."""
    async with gateway(ANSWERS, ANSWERS, more=ROUTE) as gate:
        mine = await explained(gate, tokens=501)
        bens = await explained(gate, tokens=501, key="other")
        config = gate.daemon.config
        text = config.read_text().replace('"up/secret", "up/large"]', '"up/secret"]')
        config.write_text(text.replace('fallback = ["spare"]\n', ""))
        await gate.daemon.server.reloader.reload()
        none = await explained(gate, tokens=501, key="other")
    assert order(mine) == ["up/secret", "up/large", "up/spare"]
    assert order(bens) == ["up/large", "up/spare", "up/secret"]
    assert [one.allowed for one in bens.targets[:3]] == [True, True, False]
    assert mine.refused == bens.refused == ""
    assert none.refused == "Such calls go where this key may not call"


async def test_it_says_how_targets_are_and_who_has_the_conversation() -> None:
    """Health, pace and window are those of this moment."""
    more = """[routes.r]
to = ["up/a", "up1/b"]
[prices."up1/b"]
input = 1
output = 2
context_window = 32_000
"""
    async with gateway(ANSWERS, [[reads(), says(whole(status="503 Gone"))]], more=more) as gate:
        await gate.ask(body(model="up/a"))
        for _ in range(6):
            await gate.ask(body(model="up1/b"))
        kept = gate.daemon.server.daemon.affinity
        kept.stray("r")
        kept.keep(kept.digest("laptop", "r", "session", "s"), Kept("up1/b"))
        said = await explained(gate, headers={"X-Tollway-Session": "s"})
        plain = await explained(gate)
    assert (said.stays, plain.stays) == ("up1/b", "")
    first, second = said.targets
    assert (second.target, second.health, second.window) == ("up1/b", "failing", 32_000)
    assert second.why == "fails at the moment, and is asked only where nobody else was"
    assert (first.health, first.route, first.strategy) == ("ok", "r", "ordered")
    assert first.tokens_s and first.tokens_s > 0
    assert said.refused == ""


async def test_it_says_how_often_a_target_would_be_tried_again() -> None:
    """The route's number, and what its provider's allowance leaves of it at the moment."""
    more = """[routes.r]
to = ["up/a", "up1/b"]
retries = 2
deadline = "90s"
"""
    async with gateway(ANSWERS, [[reads(), says(whole(status="503 Gone"))]], more=more) as gate:
        before = await explained(gate)
        assert before.retries == 2
        assert [one.retries_left for one in before.targets] == [20, 20]
        health = gate.daemon.server.daemon.health
        while health.may_retry("up1"):
            pass
        found = {one.target: one.retries_left for one in (await explained(gate)).targets}
        assert found["up/a"] == 20
        assert found["up1/b"] is not None and found["up1/b"] < 20
        plain = await explained(gate, model="up/a")
        assert (plain.retries, plain.targets[0].retries_left) == (0, None)
