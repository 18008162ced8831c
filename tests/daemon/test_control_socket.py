"""The owner's questions: over the admin socket alone, answered also when things are bad."""

import os
import stat

import msgspec
import pytest
from shell import Running, running, until

from tollway.daemon.errors import LedgerUnavailable

LEDGER_GONE = LedgerUnavailable("The ledger cannot be written: the disk is full")


async def ask(daemon: Running, method: str, path: str, body: object = None) -> tuple[int, dict]:  # type: ignore[type-arg]
    """Ask the admin socket; return the status and the decoded answer."""
    data = b"" if body is None else msgspec.json.encode(body)
    answer = await daemon.ask(method, path, data, admin=True)
    return answer.status, answer.json()


async def test_the_socket_is_its_owners_alone() -> None:
    """Whoever can open it is the owner: its mode is the lock."""
    async with running() as daemon:
        found = daemon.socket.stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert found.st_uid == os.geteuid()


async def test_status_tells_what_runs() -> None:
    """Version, process, address, configuration, ledger, calls, models, budgets, problems."""
    server = 'single_user = true\nbudget = ["5/day"]'
    async with running(server=server) as daemon:
        await until(lambda: daemon.server.daemon.ledger.backlog == 0)
        status, said = await ask(daemon, "GET", "/control/status")
        assert status == 200
        assert said["pid"] == os.getpid()
        assert said["listen"] == f"127.0.0.1:{daemon.port}"
        assert said["config"]["state"] == "ok"
        assert said["config"]["path"] == str(daemon.config)
        # The audit's first row may be on its way.
        assert said["ledger"] | {"backlog": 0} == {
            "path": str(daemon.folder / "ledger.db"),
            "problem": None,
            "backlog": 0,
            "recovered": 0,
        }
        assert set(said["calls"].values()) == {0}
        assert said["models"] == []
        assert said["spend_today_nanousd"] == 0
        assert said["problems"] == []
        assert said["draining"] is False
        assert said["uptime_s"] >= 0
        (budget,) = said["budgets"]
        assert (budget["scope"], budget["budget"]) == ("box", "5/day")
        assert budget["left_nanousd"] == 5 * 10**9


async def test_the_socket_serves_the_owner_without_a_key() -> None:
    """`tollway chat` uses it: no credential there means the owner."""
    keys = '[keys.ci]\nhash = "sha256:' + "0" * 64 + '"\nuser = "ci"\n[users.ci]\n'
    async with running(keys, server="") as daemon:
        assert (await daemon.ask("GET", "/v1/models", admin=True)).status == 200
        assert (await daemon.ask("GET", "/v1/models")).status == 401


async def test_explain_tells_where_a_call_would_go() -> None:
    """The gate's own answer, with nothing sent."""
    provider = (
        '[providers.box]\nkind = "openai-compatible"\nbase_url = "http://127.0.0.1:9/v1"\n'
        '[prices."box/m"]\ninput = 1\noutput = 2\n'
    )
    async with running(provider) as daemon:
        status, said = await ask(daemon, "POST", "/control/explain", {"model": "box/m"})
        assert status == 200
        assert [target["target"] for target in said["targets"]] == ["box/m"]
        status, said = await ask(daemon, "POST", "/control/explain", {"model": "none"})
        assert (status, said["error"]["code"]) == (404, "model_not_found")
        assert said["error"]["hint"]


async def test_a_question_for_an_endpoint_that_its_dialect_has_not_is_400() -> None:
    """It was a fault of our own, in the words of one."""
    hello = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    async with running() as daemon:
        for dialect, endpoint in [("openai_chat", "count_tokens"), ("gemini", "compact")]:
            asked = {"model": "m", "dialect": dialect, "endpoint": endpoint}
            for body in ({}, {"body": hello}):
                status, said = await ask(daemon, "POST", "/control/explain", asked | body)
                assert (status, f"no `{endpoint}` in" in said["error"]["message"]) == (400, True)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": 1}', b"{}", b"\xff"])
async def test_a_question_that_is_not_understood_is_400(body: bytes) -> None:
    """Errors have the shape that the command line shows."""
    async with running() as daemon:
        answer = await daemon.ask("POST", "/control/explain", body, admin=True)
        assert answer.status == 400
        assert answer.json()["error"]["code"] == "invalid_request"
        assert set(answer.json()["error"]) == {"message", "hint", "code", "call"}


async def test_a_local_model_that_is_not_there_is_said_so() -> None:
    """Load and unload name the model they cannot find."""
    async with running() as daemon:
        for verb in ("load", "unload"):
            status, said = await ask(daemon, "POST", f"/control/models/nope/{verb}")
            assert status >= 400
            assert "nope" in said["error"]["message"]
        assert await ask(daemon, "GET", "/control/models") == (200, {"models": []})


async def test_stop_answers_and_then_stops() -> None:
    """The command line asks, and waits for the process to go."""
    async with running() as daemon:
        assert await ask(daemon, "POST", "/control/stop") == (
            200,
            {"stopping": True, "pid": os.getpid()},
        )
        await daemon.server.stopped()


async def test_a_daemon_without_its_ledger_answers_its_owner_and_refuses_calls() -> None:
    """Status must work most of all when something is wrong."""
    async with running() as daemon:
        daemon.server.daemon.refusing = LEDGER_GONE
        status, said = await ask(daemon, "GET", "/control/status")
        assert status == 200
        assert said["problems"] == [LEDGER_GONE.message]
        assert said["budgets"] == []
        for path in ("/v1/chat/completions", "/v1/embeddings"):
            answer = await daemon.ask("POST", path, b"{}")
            assert answer.status == 503
            assert answer.headers["retry-after"] == "5"
        assert (await daemon.ask("GET", "/readyz")).status == 503
        assert (await daemon.ask("GET", "/healthz")).status == 200
        status, said = await ask(daemon, "POST", "/control/explain", {"model": "m"})
        assert (status, said["error"]["code"]) == (503, "ledger_unavailable")
