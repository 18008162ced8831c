"""Trying again, another key, another target: on real sockets, each attempt a row with its price."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from gateway import CHAT, INPUT, KEY, OUTPUT, Gateway, body, error, gateway, whole
from shell import until
from upstreams import Step, answer, reads, resets, says, stalls, waits
from wire.recordings import recordings

from tollway.daemon import probes
from tollway.daemon.config.load import parse
from tollway.daemon.errors import ConfigError
from tollway.daemon.ledger.verify import verify

USED = 7 * INPUT + 3 * OUTPUT
SERVES: list[Step] = [reads(), says(whole())]


def refuses(status: str, *headers: str, said: bytes = b'{"error":{"message":"No"}}') -> list[Step]:
    """Return a script that refuses."""
    return [reads(), says(whole(said, *headers, status=status))]


def route(*targets: str, **more: object) -> str:
    """Return the lines of a route `r` to these targets."""
    names = ", ".join(f'"{name}"' for name in targets)
    rest = "\n".join(f"{key} = {value}" for key, value in more.items())
    return f"[routes.r]\nto = [{names}]\n{rest}\n"


@contextlib.asynccontextmanager
async def routed(*scripts: Sequence[Sequence[Step]], **more: object) -> AsyncIterator[Gateway]:
    """Yield a gateway with a route `r` to a model of each upstream; afterwards nothing is held."""
    names = [f"up{number or ''}/m" for number in range(len(scripts))]
    provider = str(more.pop("provider", ""))
    async with gateway(*scripts, more=route(*names, **more), provider=provider) as gate:
        yield gate
        daemon = gate.daemon.server.daemon
        await until(lambda: daemon.active == 0)
        assert gate.held() == 0
        await until(lambda: verify(daemon.ledger.path) == [])


ASK = body(model="r")


async def test_a_refusal_that_passes_is_tried_again_and_each_try_is_a_row() -> None:
    """503 and then an answer: the client has the answer, the ledger both."""
    script = [refuses("503 Busy", "retry-after-ms: 5"), SERVES]
    async with routed(script, retries=2) as gate:
        reply = await gate.ask(ASK)
        row = await gate.row(reply)
        assert (reply.status, reply.headers["x-tollway-attempts"]) == (200, "2")
        first, second = row.attempts
        assert (first.status, first.ending, first.cost_nanousd) == (503, "upstream_refused", 0)
        assert (second.ending, second.cost_nanousd) == ("answered", USED)
        assert (row.call.attempts, row.call.cost_nanousd) == (2, USED)


async def test_every_attempt_is_priced() -> None:
    """Garbage and a reset after the request may have been billed: their holds are, each."""
    garbage = [reads(), says(answer(b"<html>", "Content-Type: text/html"))]
    script = [garbage, [reads(), resets()], refuses("500 Oh"), SERVES]
    async with routed(script, retries=3) as gate:
        gate.daemon.server.daemon.health.chance = lambda: 0.0
        reply = await gate.ask(ASK)
        row = await gate.row(reply)
        hold = row.attempts[0].hold_nanousd
        assert hold > USED
        assert [one.cost_nanousd for one in row.attempts] == [hold, hold, 0, USED]
        assert [one.estimated for one in row.attempts] == [True, True, False, False]
        assert row.call.cost_nanousd == 2 * hold + USED
        assert reply.headers["x-tollway-cost-usd"] == f"{row.call.cost_nanousd / 1e9:.9f}".rstrip(
            "0"
        )


async def test_a_retry_that_its_budget_has_no_room_for_ends_in_402() -> None:
    """One attempt, one hold: what the first two may have cost is spent, and no third fits."""
    garbage = [reads(), says(answer(b"<html>", "Content-Type: text/html"))]
    async with gateway([garbage], more=route("up/m", retries=3), budget="0.003/day") as gate:
        gate.daemon.server.daemon.health.chance = lambda: 0.0
        reply = await gate.ask(ASK)
        row = await gate.row(reply)
        assert (reply.status, error(reply)["code"]) == (402, "insufficient_quota")
        assert gate.ups[0].connections == len(row.attempts) == 2
        assert row.call.cost_nanousd == sum(one.hold_nanousd for one in row.attempts)
        assert gate.held() == 0


async def test_backing_off_holds_neither_slot_nor_money() -> None:
    """Who waits to try again stands in nobody's way."""
    script = [refuses("503 Busy", "Retry-After: 30"), SERVES]
    async with routed(script, retries=1, provider="slots = 1") as gate:
        daemon = gate.daemon.server.daemon
        waiting = asyncio.create_task(gate.ask(ASK))
        await until(lambda: gate.ups[0].connections == 1 and not running(gate))
        assert gate.held() == 0
        assert (await gate.ask(body())).status == 200
        assert daemon.active == 1
        waiting.cancel()


def running(gate: Gateway) -> int:
    """Return how many calls have a slot, after the first has been given back."""
    return sum(state.running for state in gate.daemon.server.daemon.queue.states())


async def test_a_caller_that_leaves_ends_the_waiting() -> None:
    """Its row is settled at once, as left, at no cost; nothing more is sent."""
    async with routed([refuses("503 Busy", "Retry-After: 30"), SERVES], retries=1) as gate:
        port = gate.daemon.server.listen.rpartition(":")[2]
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(ASK)}\r\n\r\n"
        writer.write(head.encode() + ASK)
        await writer.drain()
        daemon = gate.daemon.server.daemon
        await until(
            lambda: gate.ups[0].connections == 1 and gate.held() == 0 and daemon.active == 1
        )
        await asyncio.sleep(0)
        writer.close()
        row = await gate.only_row()
        assert (row.call.ending, row.call.cost_nanousd) == ("client_left", 0)
        assert gate.ups[0].connections == 1
        assert reader


async def test_the_deadline_ends_the_last_try_too() -> None:
    """A silent upstream does not keep a call longer than its route says."""
    async with routed([[reads(), stalls()]], retries=5, deadline='"300ms"') as gate:
        reply = await gate.ask(ASK)
        assert (reply.status, error(reply)["code"]) == (504, "upstream_timeout")
        assert (await gate.row(reply)).call.attempts == 1


async def test_the_deadline_ends_the_waiting_for_a_slot_too() -> None:
    """Who has no time left when its turn comes is not sent, so not billed, and blames nobody."""
    busy = asyncio.Event()
    script = [[reads(), waits(busy), says(whole())], SERVES]
    lines = "slots = 1"
    async with routed(script, deadline='"200ms"', retries=2, provider=lines) as gate:
        first = asyncio.create_task(gate.ask(body()))
        await until(lambda: gate.ups[0].connections == 1)
        reply = await gate.ask(ASK)
        assert (reply.status, error(reply)["code"]) == (503, "queue_timeout")
        assert "0.2 s" in error(reply)["message"]
        row = await gate.row(reply)
        assert (row.call.cost_nanousd or 0, row.attempts) == (0, ())
        busy.set()
        assert (await first).status == 200
        assert gate.ups[0].connections == 1
        assert (await health(gate))[0]["targets"] == []


async def test_a_target_that_keeps_failing_is_passed_over() -> None:
    """After five failures calls go to the next target at once; `status` says why."""
    async with routed([refuses("500 Oh")], [SERVES]) as gate:
        for _ in range(5):
            assert (await gate.ask(ASK)).headers["x-tollway-attempts"] == "2"
        reply = await gate.ask(ASK)
        assert (reply.headers["x-tollway-attempts"], reply.headers["x-tollway-target"]) == (
            "1",
            "up1/m",
        )
        assert gate.ups[0].connections == 5
        (up, other) = await health(gate)
        (failing,) = up["targets"]
        assert (failing["target"], failing["state"], failing["why"]) == ("up/m", "open", "HTTP 500")
        assert 0 < failing["rests_s"] <= 10
        assert other["targets"] == []
        # Asked for by its own name it is tried all the same, and its own error comes back.
        assert (await gate.ask(body())).status == 500


async def test_the_callers_mistakes_are_no_failures() -> None:
    """400 says that somebody is there; so does 404."""
    async with routed([refuses("400 Bad"), refuses("404 No")], [SERVES]) as gate:
        for _ in range(8):
            await gate.ask(body())
        assert (await health(gate))[0]["targets"] == []


async def health(gate: Gateway) -> list[dict[str, Any]]:
    """Return what the daemon tells of its providers."""
    status = (await gate.daemon.ask("GET", "/control/status", admin=True)).json()
    found: list[dict[str, Any]] = status["providers"]
    return found


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the line of a pool of two keys, which are there."""
    monkeypatch.setenv("POOL_ONE", "sk-first-secret-0123456789")
    monkeypatch.setenv("POOL_TWO", "sk-second-secret-0123456789")
    return 'api_keys = ["env:POOL_ONE", "env:POOL_TWO"]'


def key_of(request: bytes) -> str:
    """Return which key a request bore."""
    return "first" if b"sk-first" in request else "second" if b"sk-second" in request else ""


async def test_a_pool_of_keys_takes_turns(pool: str) -> None:
    """Call by call; the row says which, by the name of its place and never itself."""
    async with gateway([SERVES], provider=pool) as gate:
        rows = [await gate.row(await gate.ask()) for _ in range(4)]
        assert [key_of(one) for one in gate.ups[0].requests] == ["first", "second"] * 2
        assert [row.attempts[0].provider_key for row in rows] == [
            "env:POOL_ONE",
            "env:POOL_TWO",
        ] * 2
        found = gate.daemon.server.daemon.ledger.path.read_bytes()
        assert b"sk-first" not in found and b"sk-second" not in found


@pytest.mark.parametrize("status", ["401 No", "403 No", "429 Slow down"])
async def test_a_key_that_is_refused_rests_and_the_other_answers(pool: str, status: str) -> None:
    """The client sees the answer; the refused key is not used again meanwhile."""
    script = [refuses(status, "Retry-After: 20"), SERVES]
    async with gateway(script, provider=pool) as gate:
        reply = await gate.ask()
        row = await gate.row(reply)
        assert (reply.status, reply.headers["x-tollway-attempts"]) == (200, "2"), reply.body
        assert [one.provider_key for one in row.attempts] == ["env:POOL_ONE", "env:POOL_TWO"]
        for _ in range(3):
            assert (await gate.ask()).status == 200
        assert [key_of(one) for one in gate.ups[0].requests] == ["first"] + ["second"] * 4
        (up,) = await health(gate)
        first, second = up["keys"]
        assert (first["number"], first["name"], first["state"]) == (1, "env:POOL_ONE", "open")
        assert second["state"] == "closed"
        assert first["rests_s"] <= (20 if status.startswith("429") else 600)


async def test_when_all_keys_rest_the_providers_own_answer_is_told(pool: str) -> None:
    """A pool is never emptied: each is asked once more, and the last refusal is the client's."""
    said = b'{"error":{"message":"Slow down","code":"rate_limit_exceeded"}}'
    script = [refuses("429 Slow down", "Retry-After: 20", said=said)]
    async with gateway(script, provider=pool) as gate:
        for _ in range(2):
            reply = await gate.ask()
            assert (reply.status, error(reply)["code"]) == (429, "rate_limit_exceeded")
            assert reply.headers["retry-after"] == "20"
        assert len(gate.ups[0].requests) == 3


async def test_a_reload_trusts_a_refused_key_anew(pool: str) -> None:
    """That is how a person says that it was mended."""
    async with gateway([refuses("401 No"), SERVES], provider=pool) as gate:
        await gate.ask()
        assert (await health(gate))[0]["keys"][0]["state"] == "open"
        await gate.daemon.ask("POST", "/control/reload", admin=True)
        assert (await health(gate))[0]["keys"][0]["state"] == "closed"


OVERFLOWS = {
    "anthropic/messages_err400_claude-haiku-4-5",
    "llamacpp/chat_err400_qwen3-1-7b-q4-k-m",
    "openai/responses_err400_gpt-5-nano",
    "openrouter/chat_err400_claude-haiku-4-5",
}
WINDOWS = """
[prices."up/m"]
input = 1
output = 2
context_window = 1000
[prices."up1/m"]
input = 1
output = 2
context_window = 1000
[prices."up2/m"]
input = 1
output = 2
context_window = 100_000
"""


@pytest.mark.parametrize("name", sorted(OVERFLOWS))
async def test_a_prompt_that_is_too_long_goes_to_the_larger_window(name: str) -> None:
    """By each provider's own way of saying so; the target with as small a window is not asked."""
    (recorded,) = [one for one in recordings() if one.id == name]
    too_long = refuses("400 Bad Request", said=recorded.body)
    targets = route("up/m", "up1/x", "up2/m", retries=3) + WINDOWS.replace("up1/m", "up1/x")
    async with gateway([too_long], [SERVES], [SERVES], more=targets) as gate:
        reply = await gate.ask(ASK)
        assert (reply.status, reply.headers["x-tollway-target"]) == (200, "up2/m")
        assert [len(up.requests) for up in gate.ups] == [1, 0, 1]


async def test_without_a_larger_window_the_providers_own_error_is_told() -> None:
    """Its status and its words, and nobody else is asked."""
    said = b'{"error":{"message":"Too long","code":"context_length_exceeded"}}'
    targets = route("up/m", "up1/x", retries=3) + WINDOWS.replace("up1/m", "up1/x")
    async with gateway([refuses("400 Bad", said=said)], [SERVES], [SERVES], more=targets) as gate:
        reply = await gate.ask(ASK)
        assert (reply.status, error(reply)["code"]) == (400, "context_length_exceeded")
        assert [len(up.requests) for up in gate.ups] == [1, 0, 0]


async def test_a_prompt_known_to_be_too_long_is_not_sent_there() -> None:
    """Where the window is known the call goes to the larger one first."""
    long = body(model="r", messages=[{"role": "user", "content": "word " * 4000}])
    targets = route("up/m", "up2/m") + WINDOWS
    async with gateway([SERVES], [SERVES], [SERVES], more=targets) as gate:
        assert (await gate.ask(long)).headers["x-tollway-target"] == "up2/m"
        assert (await gate.ask(ASK)).headers["x-tollway-target"] == "up/m"


async def test_a_provider_whose_table_changed_is_met_without_prejudice() -> None:
    """A new address is another place; what was learned of the old one is forgotten."""
    async with gateway([refuses("500 Oh")], [SERVES]) as gate:
        for _ in range(5):
            await gate.ask()
        assert (await health(gate))[0]["targets"]
        text = gate.daemon.config.read_text()
        old, new = (f"127.0.0.1:{up.port}/v1" for up in gate.ups)
        gate.daemon.config.write_text(text.replace(old, new, 1))
        await gate.daemon.ask("POST", "/control/reload", admin=True)
        assert not (await health(gate))[0]["targets"]
        assert (await gate.ask()).status == 200


async def test_a_target_that_had_no_time_is_not_held_to_have_failed() -> None:
    """What the first one left of the deadline says nothing of the second."""
    silent = [[reads(), stalls()]]
    async with gateway(silent, silent, more=route("up/m", "up1/m", deadline='"1900ms"'),
                       provider='timeout = { first = "1s" }') as gate:  # fmt: skip
        reply = await gate.ask(ASK)
        assert (reply.status, len((await gate.row(reply)).attempts)) == (504, 2)
        assert [len(one["targets"]) for one in await health(gate)] == [1, 0]


async def test_a_probe_finds_out_before_a_call_does() -> None:
    """Two that fail put the provider behind the others; one that succeeds brings it back."""
    sick, well = refuses("503 Oh"), [reads(), says(whole(b"{}"))]
    probe = 'probe = { path = "/health?deep=1", every = "1h" }'
    scripts = [[sick, sick, well, SERVES], [well, SERVES]]
    async with gateway(*scripts, more=route("up/m", "up1/m"), provider=probe) as gate:
        daemon = gate.daemon.server.daemon
        provider = daemon.config.providers["up"]
        await until(lambda: all(up.requests for up in gate.ups))  # the daemon's own
        await probes.probe(daemon, "up", provider)
        assert b"GET /health?deep=1 HTTP/1.1" in gate.ups[0].requests[0]
        (up, _) = await health(gate)
        assert (up["state"], up["why"]) == ("open", "HTTP 503")
        assert (await gate.ask(ASK)).headers["x-tollway-target"] == "up1/m"
        await probes.probe(daemon, "up", provider)
        assert (await health(gate))[0]["state"] == "closed"
        assert (await gate.ask(ASK)).headers["x-tollway-target"] == "up/m"


async def test_probes_are_sent_by_themselves() -> None:
    """As the file says, with the provider's key; a provider without one is not asked."""
    provider = 'probe = { path = "/v1/models", every = "1h" }'
    async with gateway([[reads(), says(whole(b"{}"))]], provider=provider) as gate:
        await until(lambda: len(gate.ups[0].requests) == 1)
        assert gate.ups[0].requests[0].startswith(b"GET /v1/models HTTP/1.1")


async def test_a_provider_that_fails_and_serves_again_is_told_once_each() -> None:
    """Not call by call: one alert when it begins, one when it is over."""
    async with routed([refuses("500 Oh")] * 5 + [SERVES], [SERVES]) as gate:
        daemon = gate.daemon.server.daemon
        for _ in range(6):
            await gate.ask(ASK)
            daemon.alerts.failing(daemon.health.failing())
        assert (await gate.ask(body())).status == 200
        for _ in range(3):
            daemon.alerts.failing(daemon.health.failing())
        told = [(one.kind, one.text) for one in daemon.alerts.recent]
        assert told == [
            ("provider", "up/m is failing: HTTP 500"),
            ("provider_back", "up serves again"),
        ]


async def test_a_key_that_is_refused_is_told(pool: str) -> None:
    """By its place and its name, and never itself."""
    async with gateway([refuses("401 No"), SERVES], provider=pool) as gate:
        await gate.ask()
        (text,) = gate.daemon.server.daemon.health.failing().values()
        assert text == "up, key 1 (env:POOL_ONE): refused (HTTP 401)"


WRONG = {
    'api_key = "env:A"\napi_keys = ["env:B", "env:C"]': "api_keys: stands beside api_key",
    'api_keys = ["env:A", "env:A"]': "api_keys[1]: the same as another one",
    'api_keys = ["env:A", "sk-0123456789abcdefghij0123"]': "api_keys[1]: expected keyring:NAME",
    'auth = "caller"\napi_keys = ["env:A", "env:B"]': "remove api_keys",
    'probe = { path = "http://x/health" }': "probe.path: expected a path",
    'probe = { path = "//x/health" }': "probe.path: expected a path",
    'probe = { path = "/health", every = "10ms" }': 'probe.every: less than "1s"',
    "probe = {}": "probe: path is missing",
    "breaker = { failures = 0 }": "breaker.failures: expected a number from 1",
    'breaker = { rest = "0s" }': 'breaker.rest: less than "100ms"',
    "breaker = { tries = 3 }": "breaker.tries: unknown key",
}


@pytest.mark.parametrize("lines", WRONG)
def test_wrong_settings_are_refused_with_their_line(lines: str) -> None:
    """The file, the line, the key, and what to write; never the secret."""
    text = f'[providers.p]\nkind = "openai"\n{lines}\n'
    with pytest.raises(ConfigError) as refused:
        parse(text, path=Path("gateway.toml"))
    message = refused.value.message
    assert WRONG[lines] in message and "gateway.toml:" in message
    assert "sk-0123456789" not in message


@pytest.mark.parametrize("retries", ["-1", "11", '"2"'])
def test_retries_are_a_small_number(retries: str) -> None:
    """From none to ten."""
    text = f'[providers.p]\nkind = "openai"\n[routes.r]\nto = ["p/m"]\nretries = {retries}\n'
    with pytest.raises(ConfigError, match=r"gateway.toml:5: routes.r.retries: expected"):
        parse(text, path=Path("gateway.toml"))


PICTURE = body(
    model="r",
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
            ],
        }
    ],
)
WINDOWED = """[prices."up1/m"]
input = 1
output = 2
context_window = 1000
"""


async def test_a_target_that_could_cost_anything_is_passed_over_for_one_that_cannot() -> None:
    """What no budget could bear there, another target may have a bound for."""
    more = route("up/m", "up1/m") + WINDOWED
    async with gateway([SERVES], [SERVES], more=more) as gate:
        reply = await gate.ask(PICTURE)
        assert (reply.status, reply.headers["x-tollway-target"]) == (200, "up1/m")
        assert gate.ups[0].connections == 0
        explained = await gate.daemon.ask(
            "POST",
            "/control/explain",
            b'{"model":"r","body":' + PICTURE + b"}",
            admin=True,
        )
        assert explained.json()["refused"] == ""
        alone = await gate.ask(PICTURE.replace(b'"r"', b'"up/m"'))
        assert (alone.status, error(alone)["code"]) == (402, "unbounded")


async def test_what_a_provider_answered_is_told_though_the_next_target_has_no_bound() -> None:
    """A 503 may be tried again by its client, a 402 never."""
    more = route("up1/m", "up/m") + WINDOWED
    async with gateway([SERVES], [refuses("503 Busy")], more=more) as gate:
        reply = await gate.ask(PICTURE)
        assert (reply.status, reply.headers["x-tollway-target"]) == (503, "up1/m")
        assert gate.ups[0].connections == 0
