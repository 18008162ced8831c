"""A target that begins to fail: who waits for it, and what is told of it after a reload."""

import asyncio

import pytest
from gateway import body, gateway, whole
from shell import until
from upstreams import Step, reads, says, upstream, waits

from tollway.daemon.gate.health import Health
from tollway.daemon.gate.route import Target
from tollway.providers.catalog import KINDS
from tollway.providers.errors import UpstreamRefused

ASK = body(model="r")
SERVES: list[Step] = [reads(), says(whole())]
ROUTE = '[routes.r]\nto = ["up/m", "up1/m"]\n'


async def test_who_waits_for_a_target_that_opens_meanwhile_goes_elsewhere() -> None:
    """Calls in its line are no trials: once it is known to fail they go to the next at once."""
    go_on = asyncio.Event()
    fails: list[Step] = [reads(), waits(go_on), says(whole(b"{}", status="500 Oh"))]
    async with gateway([fails], [SERVES], provider="slots = 1", more=ROUTE) as gate:
        calls = [asyncio.create_task(gate.ask(ASK)) for _ in range(12)]
        daemon = gate.daemon.server.daemon
        await until(lambda: gate.ups[0].connections == 1 and daemon.active == 12)
        go_on.set()
        replies = await asyncio.gather(*calls)
        assert {one.status for one in replies} == {200}
        assert gate.ups[0].connections == 5
        assert gate.held() == 0


async def test_what_a_reload_forgets_is_not_said_to_serve_again() -> None:
    """Nobody knows that it does; and where it does not, that is told as the first time."""
    fails = [reads(), says(whole(b"{}", status="500 Oh"))]
    async with gateway([fails], [SERVES], more=ROUTE) as gate:
        daemon = gate.daemon.server.daemon
        for _ in range(5):
            await gate.ask(ASK)
        daemon.alerts.failing(daemon.health.failing())
        text = gate.daemon.config.read_text()
        gate.daemon.config.write_text(text.replace("[providers.up]", "[providers.up]\nslots = 9"))
        await gate.daemon.ask("POST", "/control/reload", admin=True)
        for _ in range(5):
            daemon.alerts.failing(daemon.health.failing())
            await gate.ask(ASK)
        daemon.alerts.failing(daemon.health.failing())
        told = [(one.kind, one.text) for one in daemon.alerts.recent]
        assert told == [
            ("provider", "up/m is failing: HTTP 500"),
            ("provider_back", "up is trusted anew since the configuration was loaded"),
            ("provider", "up/m is failing: HTTP 500"),
        ]


COUNTED = """[providers.claude]
kind = "anthropic"
base_url = "http://127.0.0.1:{port}"
api_key = "env:HOME"
[routes.r]
to = ["claude/claude-sonnet-4-5", "up/gpt-4o"]
"""


@pytest.mark.parametrize("status", [404, 503])
async def test_a_count_of_tokens_that_fails_is_not_sent_where_there_is_no_such_thing(
    status: int,
) -> None:
    """Its client hears what its provider said: another API has no words for the question."""
    said = b'{"type":"error","error":{"type":"api_error","message":"Oh"}}'
    async with upstream([reads(), says(whole(said, status=f"{status} Oh"))]) as claude:
        more = COUNTED.replace("{port}", str(claude.port))
        async with gateway([SERVES], more=more) as gate:
            reply = await gate.ask(body(model="r"), path="/v1/messages/count_tokens")
            assert (reply.status, reply.json()["error"]["message"][-3:]) == (status, " Oh")
            assert gate.ups[0].requests == []
            row = await gate.row(reply)
            assert [one.status for one in row.attempts] == [status]


def test_names_that_callers_make_up_do_not_make_an_alert_long() -> None:
    """It is put together each second: what is cut off in the end is not gathered first."""
    health = Health(lambda: 1000.0)
    for number in range(3000):
        target = Target("up", f"model-{number}", KINDS["openai"])
        health.begin(target).failed(UpstreamRefused("No", status=403))
        for _ in range(5):
            health.begin(target).failed(UpstreamRefused("No", status=500))
    told = health.failing()
    assert told.keys() == {"up"}  # it has no key, so that what rests of it is itself
    assert {len(text) for text in told.values()} == {300}
    assert told["up"].startswith("up/model-0 is failing: HTTP 500; up/model-1 is failing")
