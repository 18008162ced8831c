"""Which target a call goes to, in which order the others follow, on real sockets and as rules."""

import random
from collections import Counter
from hashlib import sha256

import msgspec
import pytest
from gateway import Gateway, body, gateway, whole
from hypothesis import given, settings
from hypothesis import strategies as st
from upstreams import reads, says, upstream

from tollway.daemon.gate.strategies import weighted

ANSWERS = [[reads(), says(whole())]]
BROKEN = [[reads(), says(whole(b"{}", status="503 Service Unavailable"))]]


def dice(seed: int) -> random.Random:
    """Return dice that fall the same each time."""
    return random.Random(seed)  # noqa: S311 - no secret hangs on them


async def asked(gate: Gateway, said: bytes, **headers: str) -> str:
    """Return the target that answered a call."""
    reply = await gate.ask(said, **headers)
    assert reply.status == 200, reply.body
    return reply.headers["x-tollway-target"]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8), st.integers())
def test_a_draw_by_weight_is_an_order_of_all(weights: list[int], seed: int) -> None:
    """Nobody is dropped, and who has no weight stands behind all who have."""
    order = weighted(weights, dice(seed))
    assert sorted(order) == list(range(len(weights)))
    assert [bool(weights[at]) for at in order] == sorted(map(bool, weights), reverse=True)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 20), min_size=2, max_size=5), st.integers())
def test_weights_come_out(weights: list[int], seed: int) -> None:
    """Each is first, and each is next behind the first, as often as its weight says."""
    rolling = dice(seed)
    draws = 1500
    orders = [weighted(weights, rolling) for _ in range(draws)]
    first = Counter(order[0] for order in orders)
    total = sum(weights)
    for at, weight in enumerate(weights):
        share = weight / total
        assert abs(first[at] / draws - share) < 6 * (share * (1 - share) / draws) ** 0.5 + 1e-9


async def test_calls_are_shared_out_by_weight() -> None:
    """Over many calls both targets have their part, and each call says whose it was."""
    more = """[routes.r]
to = [{ target = "up/m", weight = 3 }, { target = "up1/m", weight = 1 }]
strategy = "weighted"
"""
    async with gateway(ANSWERS, ANSWERS, more=more) as gate:
        gate.daemon.server.daemon.dice.seed(7)
        found = Counter([await asked(gate, body(model="r")) for _ in range(40)])
    assert set(found) == {"up/m", "up1/m"}
    assert 20 <= found["up/m"] <= 38


async def test_a_target_without_weight_is_the_last_resort() -> None:
    """It gets no call while another answers, and all of them when none does."""
    more = """[routes.r]
to = [{ target = "up1/m", weight = 0 }, "up/m"]
strategy = "weighted"
"""
    async with gateway(BROKEN, ANSWERS, more=more) as gate:
        reply = await gate.ask(body(model="r"))
    assert reply.headers["x-tollway-target"] == "up1/m"
    assert reply.headers["x-tollway-attempts"] == "2"


WHEN = """[routes.r]
to = ["up/m"]
when = [
    { tag.env = "ci", to = ["up/ci"] },
    { header.x-tier = "batch", team = "ml", to = ["up/batch"] },
    { input_over = 1000, to = ["up/large"] },
    { stream = false, tools = true, to = ["up/tools"] },
    { output_over = 1000, to = ["up/long"] },
]
"""


async def test_the_first_case_that_takes_a_call_is_where_it_goes() -> None:
    """What the call says of itself decides; what no case takes goes where the route says."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    long = [{"role": "user", "content": "word " * 1000}]
    async with gateway(ANSWERS, more=WHEN) as gate:
        assert await asked(gate, body(model="r")) == "up/m"
        assert await asked(gate, body(model="r"), **{"x-tollway-tags": "env=ci"}) == "up/ci"
        assert await asked(gate, body(model="r"), **{"X-Tier": "batch"}) == "up/batch"
        assert await asked(gate, body(model="r", tools=tools)) == "up/tools"
        assert await asked(gate, body(model="r", messages=long, tools=tools)) == "up/large"
        assert await asked(gate, body(model="r", max_tokens=1001)) == "up/long"
        both = {"x-tier": "batch", "x-tollway-tags": "env=ci"}
        assert await asked(gate, body(model="r", messages=long), **both) == "up/ci"
        # A bare name is no route: its conditions are not asked.
        assert await asked(gate, body(), **both) == "up/m"


async def test_a_budget_that_fills_up_sends_the_rest_elsewhere() -> None:
    """From the part that the case names on, for the rest of the period; what is held counts not."""
    more = '[routes.r]\nto = ["up/m"]\nwhen = [{ budget_over = 0.5, to = ["up1/cheap"] }]\n'
    # A call costs 13,000 nano-dollars, and this budget has 20,000.
    server = 'budget = [{ usd = 0.00002, per = "day", at = "warn" }]'
    async with gateway(ANSWERS, ANSWERS, more=more, server=server) as gate:
        found = [await asked(gate, body(model="r")) for _ in range(3)]
    assert found == ["up/m", "up1/cheap", "up1/cheap"]


async def test_what_a_case_sends_elsewhere_still_has_the_fallback() -> None:
    """The targets of a case fail like any others: the fallback's are behind them."""
    more = """[routes.r]
to = ["up/m"]
fallback = ["spare"]
when = [{ stream = false, to = ["up/other"] }]
[routes.spare]
to = ["up/never"]
when = [{ output_over = 5, to = ["up1/spare"] }]
"""
    async with gateway(BROKEN, ANSWERS, more=more) as gate:
        reply = await gate.ask(body(model="r"))
        detail = await gate.row(reply)
    assert reply.headers["x-tollway-target"] == "up1/spare"
    assert [f"{one.provider}/{one.model}" for one in detail.attempts] == ["up/other", "up1/spare"]


async def test_a_case_never_opens_what_a_group_excepts() -> None:
    """Its targets are left out for that caller, as those of any route; none left is a 404."""
    secret = "tw-" + "o" * 40
    more = f"""[routes.r]
to = ["up/m"]
when = [
    {{ stream = true, to = ["up/secret"] }},
    {{ output_over = 5, to = ["up/secret", "up/open"] }},
]
[groups.most]
models = ["*"]
except = ["up/secret"]
[users.ben]
groups = ["most"]
[keys.other]
hash = "sha256:{sha256(secret.encode()).hexdigest()}"
user = "ben"
"""
    bens = {"authorization": f"Bearer {secret}"}
    async with gateway(ANSWERS, more=more) as gate:
        assert await asked(gate, body(model="r")) == "up/secret"
        assert await asked(gate, body(model="r"), **bens) == "up/open"
        assert await asked(gate, body(model="r", max_tokens=1), **bens) == "up/m"
        refused = await gate.ask(body(True, model="r"), **bens)
    assert refused.status == 404
    assert "go where this key may not call" in refused.json()["error"]["message"]


async def test_a_count_of_tokens_goes_where_the_call_would() -> None:
    """Asking how long a request is asks the target that it would go to."""
    more = WHEN.replace("up/large", "up1/large")
    said = {"model": "r", "messages": [{"role": "user", "content": "word " * 1000}]}
    async with gateway(ANSWERS, ANSWERS, more=more) as gate:
        reply = await gate.ask(msgspec.json.encode(said), "/v1/messages/count_tokens")
    assert reply.headers["x-tollway-target"] == "up1/large"


CHANGES = """[routes.r]
to = ["up/m"]
max_output = 5
max_temperature = 0.2
when = [
    { tools = true, max_output = 7, to = ["claude/claude-sonnet-4-5"] },
    { tag.a = "b", to = ["up/m"], system_prefix = "Be brief." },
]
[providers.claude]
kind = "anthropic"
base_url = "http://127.0.0.1:{port}"
api_key = "env:HOME"
[prices."claude/*"]
input = 1
output = 2
"""


async def test_what_a_route_changes_is_sent_held_and_told() -> None:
    """The hold is for the shorter answer, and the head says what was changed."""
    more = CHANGES.replace("http://127.0.0.1:{port}", "http://127.0.0.1:9")
    async with gateway(ANSWERS, more=more) as gate:
        reply = await gate.ask(body(model="r"))
        sent = msgspec.json.decode(gate.ups[0].requests[-1].partition(b"\r\n\r\n")[2])
        detail = await gate.row(reply)
        plain = await gate.ask(body())
        same = await gate.row(await gate.ask(body(max_tokens=5, temperature=0.2)))
        tagged = await gate.ask(body(model="r"), **{"x-tollway-tags": "a=b"})
    assert sent["max_tokens"] == 5 and sent["temperature"] == 0.2
    assert reply.headers["x-tollway-changed"] == "output=5, temperature=0.2"
    # As for a client who had written it so.
    assert detail.attempts[0].hold_nanousd == same.attempts[0].hold_nanousd
    assert "x-tollway-changed" not in plain.headers
    assert tagged.headers["x-tollway-changed"].endswith("system_prefix")


async def test_a_translated_call_is_changed_too() -> None:
    """In the neutral form, so that each target gets it in its own words."""
    answer = (
        b'{"id":"m","type":"message","role":"assistant","model":"c","content":[{"type":"text",'
        b'"text":"Hi"}],"stop_reason":"end_turn","usage":{"input_tokens":7,"output_tokens":3}}'
    )
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    async with upstream([reads(), says(whole(answer))]) as claude:
        more = CHANGES.replace("{port}", str(claude.port))
        async with gateway(ANSWERS, more=more) as gate:
            reply = await gate.ask(body(model="r", tools=tools))
        sent = msgspec.json.decode(claude.requests[-1].partition(b"\r\n\r\n")[2])
    assert reply.headers["x-tollway-target"] == "claude/claude-sonnet-4-5"
    assert (sent["max_tokens"], sent["temperature"]) == (7, 0.2)
    assert reply.headers["x-tollway-changed"] == "output=7, temperature=0.2"


UNTAKEN = """[routes.r]
to = ["claude/claude-opus-4-7"]
max_temperature = 0.2
on_loss = "refuse"
[routes.s]
to = ["claude/claude-3-5-haiku-latest"]
reasoning_effort = "low"
on_loss = "refuse"
[providers.claude]
kind = "anthropic"
base_url = "http://127.0.0.1:{port}"
api_key = "env:HOME"
[prices."claude/*"]
input = 1
output = 2
"""


@pytest.mark.parametrize(
    ("route", "asks"), [("r", {"temperature": 0.9}), ("s", {"reasoning_effort": "high"})]
)
async def test_what_a_model_does_not_take_of_its_route_is_no_loss_of_the_client_s(
    route: str, asks: dict[str, object]
) -> None:
    """As in a request that passes through it is left alone; what the client said is its own."""
    answer = (
        b'{"id":"m","type":"message","role":"assistant","model":"c","content":[{"type":"text",'
        b'"text":"Hi"}],"stop_reason":"end_turn","usage":{"input_tokens":7,"output_tokens":3}}'
    )
    async with upstream([reads(), says(whole(answer))]) as claude:
        more = UNTAKEN.replace("{port}", str(claude.port))
        async with gateway(ANSWERS, more=more) as gate:
            plain = await gate.ask(body(model=route))
            lost = await gate.ask(body(model=route, **asks))
    assert plain.status == 200, plain.body
    assert "x-tollway-changed" not in plain.headers
    assert "x-tollway-dropped" not in plain.headers
    assert (lost.status, lost.json()["error"]["code"]) == (400, "untranslatable")
