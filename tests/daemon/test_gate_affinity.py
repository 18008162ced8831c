"""Calls of one conversation stay where it was served, and nothing else follows from that."""

import re
from typing import Any

import msgspec
import pytest
from gateway import HEAD, Gateway, body, chunk, gateway, whole
from hypothesis import given
from hypothesis import strategies as st
from upstreams import reads, says, upstream

from tollway.daemon.gate.affinity import HEADERS, IDLE_S, Affinity, Kept, Stay, conversation_in
from tollway.providers.canon import Call
from tollway.providers.dialects.dialect import InUrl
from tollway.providers.dialects.table import DIALECTS

ANSWERS = [[reads(), says(whole())]]
ROUTE = """[routes.r]
to = ["up/m", "up1/m"]
strategy = "weighted"
"""


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now_s


def call(dialect: str, **said: Any) -> Call:
    """Return a call as its client's dialect reads it."""
    body = msgspec.json.encode({"model": "r", **said})
    return DIALECTS[dialect].dialect.peek("chat", body, InUrl("r", stream=False))


def chat(*turns: str, **more: Any) -> Call:
    """Return a chat of so many turns, the user's first."""
    roles = ("user", "assistant")
    said = [{"role": roles[at % 2], "content": text} for at, text in enumerate(turns)]
    return call("openai_chat", messages=[{"role": "system", "content": "S"}, *said], **more)


def stay(affinity: Affinity, said: Call, session: str = "", whose: str = "ann") -> Stay:
    """Return a call's stay."""
    return Stay(affinity, (whose, "r"), said, session)


def test_a_conversation_without_a_name_is_known_by_how_it_began() -> None:
    """From its second call on: then there is an answer in it."""
    affinity = Affinity()
    first = stay(affinity, chat("Hello"))
    assert first.kept is None
    first.served("up/m")
    again = stay(affinity, chat("Hello"))
    assert again.kept is None  # the same question once more is another conversation
    assert stay(affinity, chat("Hello", "Hi", "How are you?")).kept == Kept("up/m")
    assert stay(affinity, chat("Hallo", "Hi", "How are you?")).kept is None
    assert stay(affinity, chat("Hello", "Hi", "And?"), whose="ben").kept is None


def test_how_a_client_writes_its_json_does_not_matter() -> None:
    """Parts or text, marks of what to cache: the words are the conversation."""
    affinity = Affinity()
    text = {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}
    first = call("anthropic_messages", max_tokens=9, system="S",
                 messages=[{"role": "user", "content": [text]}])  # fmt: skip
    stay(affinity, first).served("up/m")
    then = call("anthropic_messages", max_tokens=9, system=[{"type": "text", "text": "S"}],
                messages=[{"role": "user", "content": "Hello"},
                          {"role": "assistant", "content": "Hi"},
                          {"role": "user", "content": [text]}])  # fmt: skip
    assert stay(affinity, then).kept == Kept("up/m")


UUID = "0f1e2d3c-aaaa-bbbb-cccc-000011112222"


@pytest.mark.parametrize(
    ("said", "session"),
    [
        (chat("x"), UUID),
        (chat("x", prompt_cache_key="mine"), ""),
        (call("openai_responses", input="x", prompt_cache_key="mine"), ""),
        (call("openai_responses", input="x", conversation={"id": "conv_1"}), ""),
        (call("anthropic_messages", max_tokens=9, messages=[],
              metadata={"user_id": f"user_1_account_2_session_{UUID}"}), ""),
        (call("anthropic_messages", max_tokens=9, messages=[],
              metadata={"user_id": f'{{"device_id":"1","session_id":"{UUID}"}}'}), ""),
    ],
)  # fmt: skip
def test_a_conversation_that_has_a_name_is_known_by_it(said: Call, session: str) -> None:
    """From its first call on, whatever the text."""
    affinity = Affinity()
    stay(affinity, said, session).served("up/m", key="2")
    assert stay(affinity, said, session).kept == Kept("up/m", "2")
    assert stay(affinity, said, "another").kept is None or not session


def test_a_user_is_no_session() -> None:
    """`metadata.user_id` may name a person, who has many conversations."""
    affinity = Affinity()
    said = call("anthropic_messages", max_tokens=9, messages=[], metadata={"user_id": "u-1234567"})
    stay(affinity, said).served("up/m")
    assert stay(affinity, said).kept is None


def test_who_goes_on_from_an_answer_goes_where_it_is() -> None:
    """Nobody else has it; that is more certain than any name."""
    affinity = Affinity()
    first = call("openai_responses", input="x", prompt_cache_key="k")
    stay(affinity, first).served("up/m", answer="resp_1")
    stay(affinity, first).served("up1/m", answer="resp_2")
    then = call("openai_responses", input="y", prompt_cache_key="k", previous_response_id="resp_1")
    assert stay(affinity, then).kept == Kept("up/m")
    assert stay(affinity, first).kept == Kept("up1/m")


@pytest.mark.parametrize("name", HEADERS)
def test_each_agent_s_header_names_a_session(name: str) -> None:
    """As it reaches the gate: in lower case."""
    assert conversation_in((("accept", "x"), (name, "s-1"))) == "s-1"
    assert conversation_in((("accept", "x"),)) == ""


def test_the_table_is_bounded_and_forgets() -> None:
    """The longest silent goes first; after an hour of silence nothing is known."""
    clock = Clock()
    affinity = Affinity(clock, most=3)
    digests = [affinity.digest(str(number)) for number in range(5)]
    for digest in digests:
        affinity.keep(digest, Kept("t"))
        clock.now_s += 1
    assert len(affinity) == 3
    assert [affinity.find(one) is not None for one in digests] == [False, False, True, True, True]
    clock.now_s += IDLE_S - 2
    assert affinity.find(digests[2]) is None
    assert affinity.find(digests[4]) == Kept("t")


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_no_two_conversations_are_one(first: list[str], second: list[str]) -> None:
    """Where the parts are cut counts; and another process cannot make the digest."""
    affinity = Affinity()
    assert (affinity.digest(*first) == affinity.digest(*second)) == (first == second)
    assert Affinity().digest(*first) != affinity.digest(*first)


async def asked(gate: Gateway, said: bytes, **headers: str) -> str:
    """Return the target that answered a call."""
    reply = await gate.ask(said, **headers)
    assert reply.status == 200, reply.body
    return reply.headers["x-tollway-target"]


async def test_a_session_stays_at_its_target_and_others_are_shared_out() -> None:
    """Each session has one target, whichever; calls without a session have both."""
    async with gateway(ANSWERS, ANSWERS, more=ROUTE) as gate:
        gate.daemon.server.daemon.dice.seed(3)
        for number in range(3):
            session = {"X-Claude-Code-Session-Id": f"s-{number}"}
            assert len({await asked(gate, body(model="r"), **session) for _ in range(8)}) == 1
        assert len({await asked(gate, body(model="r")) for _ in range(16)}) == 2


async def test_affinity_can_be_switched_off() -> None:
    """Then each call is shared out for itself, session or not."""
    async with gateway(ANSWERS, ANSWERS, more=ROUTE + "affinity = false\n") as gate:
        gate.daemon.server.daemon.dice.seed(3)
        found = {await asked(gate, body(model="r"), session_id="s") for _ in range(16)}
    assert found == {"up/m", "up1/m"}


async def test_a_conversation_moves_with_its_target_s_failure_and_stays_there() -> None:
    """Where the target that has it fails, the next one has it from then on: its prompt is there."""
    route = ROUTE.replace("weighted", "ordered")
    fails = [reads(), says(whole(b"{}", status="503 Service Unavailable"))]
    up = [[reads(), says(whole())], fails, [reads(), says(whole())]]
    async with gateway(up, ANSWERS, more=route) as gate:
        found = [await asked(gate, body(model="r"), session_id="s") for _ in range(3)]
        other = await asked(gate, body(model="r"), session_id="t")
    assert found == ["up/m", "up1/m", "up1/m"]
    assert other == "up/m"


async def test_a_stream_s_conversation_stays_too() -> None:
    """It is noted with the call's settlement, before the last byte is out."""
    used = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
    stream = HEAD + chunk("Hi") + chunk("", "stop") + used + b"data: [DONE]\n\n"
    script = [[reads(), says(stream)]]
    async with gateway(script, script, more=ROUTE) as gate:
        said = [{"role": "user", "content": "Hello"}]
        first = await asked(gate, body(True, model="r", messages=said))
        said += [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "And?"}]
        assert {await asked(gate, body(True, model="r", messages=said)) for _ in range(8)} == {
            first
        }


async def test_affinity_never_leads_where_a_call_may_not_go() -> None:
    """A condition and a list of exceptions decide before it; a full budget refuses as ever."""
    more = """[routes.r]
to = ["up/m", "up1/m"]
when = [{ tools = true, to = ["up/t", "up1/t"] }]
"""
    tools = [{"type": "function", "function": {"name": "f"}}]
    async with gateway(ANSWERS, ANSWERS, more=more) as gate:
        kept = gate.daemon.server.daemon.affinity
        assert await asked(gate, body(model="r"), session_id="s") == "up/m"
        assert await asked(gate, body(model="r", tools=tools), session_id="s") == "up/t"
        config = gate.daemon.config
        text = config.read_text().replace('models = ["*"]', 'models = ["*"]\nexcept = ["up/m"]')
        config.write_text(text)
        await gate.daemon.server.reloader.reload()
        kept.stray("r")
        kept.keep(kept.digest("laptop", "r", "session", "s"), Kept("up/m"))
        assert await asked(gate, body(model="r"), session_id="s") == "up1/m"
        config.write_text(text.replace('budget = ["1/day"]', 'budget = ["0.000001/day"]'))
        await gate.daemon.server.reloader.reload()
        assert (await gate.ask(body(model="r"), session_id="s")).status == 402


async def test_a_case_that_sends_a_conversation_elsewhere_is_not_undone_by_a_fallback() -> None:
    """What a route has for other calls comes after what it has for this one."""
    more = """[routes.r]
to = ["up/m"]
fallback = ["s"]
when = [{ tag.part = "last", to = ["up1/m"] }]
[routes.s]
to = ["up/m"]
"""
    answers = [reads(), says(whole())]
    async with gateway([answers], [answers], more=more) as gate:
        said, session = body(model="r"), {"x-session-id": "one"}
        assert await asked(gate, said, **session) == "up/m"
        assert await asked(gate, said, **session, **{"x-tollway-tags": "part=last"}) == "up1/m"


async def test_calls_in_order_pay_for_affinity_only_once_one_has_strayed() -> None:
    """While all are served where they begin there is nothing to remember for them."""
    route = ROUTE.replace("weighted", "ordered")
    fails = [reads(), says(whole(b"{}", status="503 Service Unavailable"))]
    up = [[reads(), says(whole())], fails, [reads(), says(whole())]]
    async with gateway(up, ANSWERS, more=route) as gate:
        kept = gate.daemon.server.daemon.affinity
        assert await asked(gate, body(model="r"), session_id="s") == "up/m"
        assert (len(kept), kept.has_strayed("r")) == (0, False)
        assert await asked(gate, body(model="r"), session_id="s") == "up1/m"
        assert (len(kept), kept.has_strayed("r")) == (1, True)
        assert await asked(gate, body(model="r"), session_id="t") == "up/m"
        assert await asked(gate, body(model="r"), session_id="s") == "up1/m"
        assert len(kept) == 2


async def test_a_conversation_that_goes_on_stays_however_long_it_lasts() -> None:
    """It is forgotten after an hour of silence, not an hour after it had to move."""
    route = ROUTE.replace("weighted", "ordered")
    fails = [reads(), says(whole(b"{}", status="503 Service Unavailable"))]
    async with gateway([fails, [reads(), says(whole())]], ANSWERS, more=route) as gate:
        daemon, clock = gate.daemon.server.daemon, Clock()
        daemon.affinity = Affinity(clock)
        assert await asked(gate, body(model="r"), session_id="s") == "up1/m"
        for _ in range(4):
            clock.now_s += IDLE_S * 0.75
            assert await asked(gate, body(model="r"), session_id="s") == "up1/m"
        clock.now_s += IDLE_S + 1
        assert await asked(gate, body(model="r"), session_id="s") == "up/m"
        assert not daemon.affinity.has_strayed("r")


async def test_a_conversation_stays_with_the_key_that_served_it() -> None:
    """Of a provider's pool: each session has one key, and the sessions have both."""
    more = """[providers.pool]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{port}/v1"
api_keys = ["env:POOL_ONE", "env:POOL_TWO"]
[prices."pool/*"]
input = 1
output = 2
[routes.r]
to = ["pool/m"]
"""
    async with upstream(*ANSWERS) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("POOL_ONE", "key-one")
            patch.setenv("POOL_TWO", "key-two")
            async with gateway(ANSWERS, more=more.replace("{port}", str(pool.port))) as gate:
                for turn in range(3):
                    for session in ("s", "t"):
                        await asked(gate, body(model="r", seed=turn), session_id=session)
        sent = [re.search(rb"[Bb]earer (key-\w+)", one) for one in pool.requests]
    keys = [found[1] for found in sent if found]
    assert len(keys) == 6
    assert len(set(keys[::2])) == len(set(keys[1::2])) == 1
    assert len(set(keys)) == 2
