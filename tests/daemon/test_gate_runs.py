"""The keys of `tollway run`, as the daemon keeps them; and how calls are explained by dialect."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from gateway import WHOLE, body, config, gateway, whole
from shell import Reply, Running, running
from upstreams import reads, says, upstream

from tollway.daemon.runs import LEASE_S, Asked, Runs

SECRET = "tw-" + "r" * 40
HASH = "sha256:" + sha256(SECRET.encode()).hexdigest()
ANSWER = [reads(), says(whole(WHOLE, "Connection: close"))]
RUN = {"id": "r-1", "hash": HASH, "tags": {"project": "shop"}, "budget_nanousd": 10**9}


async def post(daemon: Running, path: str, said: object = None) -> Reply:
    """Ask the admin socket."""
    data = b"" if said is None else json.dumps(said).encode()
    return await daemon.ask("POST", path, data, admin=True)


async def call(daemon: Running, **headers: str) -> Reply:
    """Make a call with the run's key."""
    sent = {"authorization": f"Bearer {SECRET}"} | headers
    return await daemon.ask("POST", "/v1/chat/completions", body(), admin=False, **sent)


def test_a_run_without_a_word_from_its_command_ends() -> None:
    """A command that was killed leaves a key that opens nothing for long."""
    now = [0.0]
    runs = Runs(lambda: now[0])
    digest = bytes.fromhex(HASH.removeprefix("sha256:"))
    runs.put(Asked("r-1", HASH))
    now[0] = LEASE_S - 1
    assert runs.find(digest)
    assert runs.put(Asked("r-1", HASH))[1] is False
    now[0] += LEASE_S - 1
    assert runs.find(digest)
    now[0] += 1
    assert runs.find(digest) is None
    runs.put(Asked("r-2", "sha256:" + "0" * 64))
    assert list(runs.budgets()) == ["run=r-2"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "a b"}, {"id": ""}, {"hash": "sha256:1"}, {"hash": SECRET}, {"budget_nanousd": 0},
        {"budget_nanousd": -1}, {"tags": {"run": "r-9"}}, {"tags": {"a b": "c"}},
        {"tags": {"a": "b c"}}, {"more": 1},
    ],
)  # fmt: skip
async def test_a_run_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """And nothing is kept of it."""
    async with gateway([ANSWER]) as gate:
        assert (await post(gate.daemon, "/control/runs", RUN | wrong)).status == 400
        assert (await call(gate.daemon)).status == 401


async def test_a_run_s_tags_cannot_be_set_by_its_calls() -> None:
    """Its budget hangs on them."""
    async with gateway([ANSWER]) as gate:
        assert (await post(gate.daemon, "/control/runs", RUN)).status == 200
        reply = await call(gate.daemon, x_tollway_tags="run=other,project=x,ticket=7")
        row = await gate.row(reply)
        wanted = {"project": "shop", "run": "r-1", "ticket": "7"}
        assert json.loads(row.call.tags) == wanted
        ended = (await post(gate.daemon, "/control/runs/r-1/end")).json()
        assert ended["cost_nanousd"] == 13_000
        assert ended["left_nanousd"] == 10**9 - 13_000
        assert (await call(gate.daemon)).status == 401
        assert (await post(gate.daemon, "/control/runs/r-1/end")).status == 404


async def test_a_restarted_daemon_learns_of_a_run_and_of_what_it_spent(tmp_path: Path) -> None:
    """The command says every few seconds that it runs; its budget does not begin anew."""
    async with upstream(ANSWER) as up:
        text = config([up])
        async with running(text, server="", folder=tmp_path) as daemon:
            assert (await post(daemon, "/control/runs", RUN)).json()["new"] is True
            assert (await call(daemon)).status == 200
        async with running(text, server="", folder=tmp_path) as daemon:
            assert (await call(daemon)).status == 401
            assert (await post(daemon, "/control/runs", RUN)).json()["new"] is True
            assert (await call(daemon)).status == 200
            ended = (await post(daemon, "/control/runs/r-1/end")).json()
            assert (ended["cost_nanousd"], ended["targets"][0]["calls"]) == (26_000, 2)


async def test_a_reload_keeps_runs_and_their_budgets() -> None:
    """They are in no file, and a new gate has them all the same."""
    async with gateway([ANSWER]) as gate:
        await post(gate.daemon, "/control/runs", RUN)
        await gate.daemon.server.reloader.reload()
        assert (await call(gate.daemon)).status == 200
        states = gate.daemon.server.daemon.gate.purse.states()
        assert [one.settled_nanousd for one in states if one.scope == "tag"] == [13_000]


async def test_a_run_ends_with_the_key_that_it_runs_as() -> None:
    """Who revokes a key means all that goes by it."""
    async with gateway([ANSWER]) as gate:
        await post(gate.daemon, "/control/runs", RUN | {"key": "laptop"})
        assert (await call(gate.daemon)).status == 200
        path = gate.daemon.config
        path.write_text(
            path.read_text().replace("[keys.laptop]", "[keys.laptop]\nrevoked = 2020-01-01")
        )
        await gate.daemon.server.reloader.reload()
        assert (await call(gate.daemon)).status == 401


# --- routes explain, by dialect -----------------------------------------------------------------

MORE = """
[providers.claude]
kind = "anthropic"
base_url = "http://127.0.0.1:9/v1"
auth = "caller"
[providers.box]
kind = "openai-compatible"
base_url = "http://127.0.0.1:9/v1"
[prices]
"box/*" = "free"
[routes.both]
to = ["claude/m", "box/m"]
[routes.strict]
to = ["box/m"]
on_loss = "refuse"
"""
ASKED = {
    "max_tokens": 10,
    "messages": [{"role": "user", "content": "Hi"}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "top_k": 5,
}


async def explain(daemon: Running, **question: object) -> dict[str, Any]:
    """Return what the daemon says of a call."""
    reply = await post(daemon, "/control/explain", question)
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json()
    return found


async def test_explain_says_what_passes_and_what_is_translated() -> None:
    """By what the client speaks; a credential of its own goes with its own API alone."""
    async with gateway([ANSWER], more=MORE) as gate:
        said = await explain(gate.daemon, model="both", dialect="anthropic_messages")
        first, second = said["targets"]
        assert (first["passes"], first["dialect"], first["callers"]) == (
            *(True, "anthropic_messages", True),
        )
        assert (second["passes"], second["dialect"]) == (False, "openai_chat")
        assert said["refused"] == ""
        said = await explain(gate.daemon, model="both", dialect="openai_chat")
        assert "caller's own credential" in said["targets"][0]["why"]
        assert said["targets"][1]["passes"] is True
        assert said["refused"] == ""


async def test_explain_says_what_a_request_would_lose() -> None:
    """By the request itself: its fields, its tokens, and the route that refuses a loss."""
    async with gateway([ANSWER], more=MORE) as gate:
        asked = {"dialect": "anthropic_messages", "body": ASKED}
        (one,) = (await explain(gate.daemon, model="box/m", **asked))["targets"]
        assert "top_k" in one["dropped"]
        strict = await explain(gate.daemon, model="strict", **asked)
        assert "cannot be asked for" in strict["targets"][0]["why"]
        assert "cannot be asked for" in strict["refused"]
        small = await explain(
            gate.daemon, model="up/m", dialect="openai_chat", body=json.loads(body())
        )
        (held,) = small["targets"]
        (plain,) = (await explain(gate.daemon, model="up/m", tokens=10**6))["targets"]
        assert 0 < held["hold_nanousd"] < plain["hold_nanousd"]


async def test_explain_refuses_what_is_no_request() -> None:
    """In the words of the dialect's reader."""
    async with gateway([ANSWER], more=MORE) as gate:
        reply = await post(gate.daemon, "/control/explain", {"model": "box/m", "body": [1]})
        assert reply.status == 400
