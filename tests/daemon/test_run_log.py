"""The log never holds up a call, and background work never ends unseen."""

import asyncio
import logging
import os
import threading
from pathlib import Path

import msgspec
import pytest
from gateway import CHAT, DONE, HEAD, KEY, USED, Gateway, body, chunk, gateway, whole
from shell import until
from upstreams import reads, says, stalls

from tollway.daemon.log import Log, Mask
from tollway.daemon.log_file import LogFile
from tollway.daemon.state import Trace
from tollway.daemon.tasks import Tasks


def test_a_log_that_nobody_reads_holds_nobody_up() -> None:
    """A stopped terminal or a full pipe: lines are counted instead of kept, and said so later."""
    reading, writing = os.pipe()
    log = Log(writing)
    for number in range(60_000):
        log.put("info", f"line {number}", {})
    got: list[bytes] = []

    def read() -> None:
        with os.fdopen(reading, "rb") as pipe:
            got.append(pipe.read())

    reader = threading.Thread(target=read)
    reader.start()
    log.flush()
    log.close()
    os.close(writing)
    reader.join()
    assert b"line 0\n" in got[0]
    assert b"lines were lost" in got[0]


def test_a_log_file_is_bounded_and_follows_its_path(tmp_path: Path) -> None:
    """A full one becomes the one before it; what somebody moved or removed is begun anew."""
    path, before = tmp_path / "tollway.log", tmp_path / "tollway.log.1"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    other = os.open(path, os.O_WRONLY | os.O_APPEND)  # as a daemon has it that takes over
    log = Log(fd, LogFile(path, (fd,), most=1000))
    second = Log(other, LogFile(path, (other,), most=1000))
    try:
        for number in range(100):
            log.put("info", f"line {number}", {})
            log.flush()
        assert f"line {99}" in path.read_text() + before.read_text()
        assert path.stat().st_size < 1100
        assert 1000 <= before.stat().st_size < 1100
        assert path.stat().st_mode & 0o777 == 0o600
        second.put("info", "lands in the old one", {})
        second.flush()
        second.put("info", "lands in the new one", {})
        second.flush()
        assert "lands in the new one" in path.read_text()
        path.unlink()
        for number in (1, 2):
            log.put("info", f"after {number}", {})
            log.flush()
        assert path.read_text().endswith("after 2\n")
    finally:
        log.close()
        second.close()
        os.close(fd)
        os.close(other)


def test_everything_python_logs_passes_the_mask() -> None:
    """Libraries log too; a key in a message or a traceback of theirs is blanked out."""
    reading, writing = os.pipe()
    log = Log(writing)
    log.install("info", "text")
    log.mask.hide(["sk-provider-secret", "short"])
    try:
        secret = "with tw-CANARY0123456 and sk-provider-secret"
        try:
            raise ValueError(secret)
        except ValueError:
            logging.getLogger("somebody.else").exception("failed short of %s", secret)
        log.flush()
    finally:
        log.close()
        os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    assert "failed short of with tw-*** and ***" in said
    assert "ValueError: with tw-*** and ***" in said
    assert "CANARY" not in said
    assert all(line.startswith(("20", "    ")) for line in said.splitlines())


def test_a_secret_is_hidden_however_an_upstream_spells_it() -> None:
    """In a URL that it quotes, and as PHP's and .NET's JSON escape what others leave alone."""
    mask = Mask()
    mask.hide(["canary/of+tollway=="])
    for said in (
        "canary/of+tollway==",
        "https://up/?key=canary%2Fof%2Btollway%3D%3D&a=b",
        "https://up/?key=canary%2fof%2btollway%3d%3d",
        r'{"message": "canary\/of+tollway=="}',
        r'{"message": "canary/of\u002Btollway=="}',
    ):
        assert "tollway" not in mask(said)
    assert mask("Bearer ya29.c.c0ASRK0Ga-token_x, a") == "Bearer ya29.***, a"


def test_nothing_that_a_caller_chose_moves_the_cursor_from_a_calls_line() -> None:
    """The path and the model's name are the caller's, and somebody reads the log on a terminal."""
    reading, writing = os.pipe()
    log = Log(writing)
    try:
        trace = Trace("an-id")
        trace.key, trace.model = "laptop", "m\u202eo\x7fd\x1b[2J e\nl\u2028"
        log.access("POST", "/v1/\x9b2J/\u202e", 200, 0.01, trace)
        log.flush()
    finally:
        log.close()
        os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        (line,) = pipe.read().split("\n")[:-1]
    assert line.isprintable()
    assert line.endswith(
        " info    POST /v1/\\x9b2J/\\u202e 200 10.0ms key=laptop"
        ' model="m\\u202eo\\x7fd\\u001b[2J e\\nl\\u2028" an-id'
    )


async def test_a_crash_in_the_background_is_logged_and_ends_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One task's bug is that task's end, with its traceback under its name."""
    tasks = Tasks()
    go = asyncio.Event()

    async def crash() -> None:
        raise RuntimeError("boom")

    other = tasks.start(go.wait(), name="other")
    crashed = tasks.start(crash(), name="the crash")
    await asyncio.wait([crashed])
    assert "`the crash` crashed" in caplog.text
    assert "boom" in caplog.text
    assert not other.done()
    assert not await tasks.wait(0.001)
    go.set()
    assert await tasks.wait(30)
    assert len(tasks) == 0


async def test_closing_the_owner_ends_what_still_runs() -> None:
    """Cancelled work may clean up first, and is waited for."""
    tasks = Tasks()
    cleaned = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    task = tasks.start(work(), name="work")
    await asyncio.sleep(0)
    await tasks.close()
    assert task.cancelled()
    assert cleaned.is_set()


async def logged(gate: Gateway) -> list[dict[str, object]]:
    """Return the calls' lines in the log, once no call is under way and one stands there.

    It is written behind the call's end, which a client that has left does not wait for.
    """

    def lines() -> list[dict[str, object]]:
        gate.daemon.server.output.flush()
        found = [msgspec.json.decode(line) for line in gate.daemon.log.read_text().splitlines()]
        return [line for line in found if line["text"] == "call"]

    await until(lambda: gate.daemon.server.daemon.active == 0 and bool(lines()))
    return lines()


FIELDS = {
    *("at", "level", "text", "call", "method", "path", "status", "ms", "key", "user", "team"),
    *("project", "model", "route", "target", "attempts", "ending", "error", "input_tokens"),
    *("output_tokens", "cost_nanousd", "first_ms", "queue_ms", "stream", "client"),
}


async def test_a_calls_line_says_all_that_its_row_says_by_names_that_stay() -> None:
    """Programs read these names: they are in docs/monitoring.md, and change no more."""
    down = [reads(), says(whole(status="500 Oops"))]
    stream = [reads(), says(HEAD + chunk("Hello") + chunk("", "stop") + USED + DONE)]
    more = '[routes.fast]\nto = ["up/m", "up1/n"]'
    server = 'log_format = "json"'
    async with gateway([down], [stream], more=more, server=server, provider="slots = 2") as gate:
        row = await gate.row(await gate.ask(body(True, model="fast")))
        (line,) = await logged(gate)
    assert set(line) == FIELDS
    call = row.call
    assert (line["call"], line["status"], line["key"]) == (call.id, 200, "laptop")
    assert (line["user"], line["team"], line["model"]) == ("ann", "ml", "fast")
    assert (line["route"], line["target"], line["attempts"]) == ("fast", "up1/n", 2)
    assert (line["ending"], line["error"], line["stream"]) == ("answered", "", True)
    assert line["cost_nanousd"] == call.cost_nanousd
    assert (line["input_tokens"], line["output_tokens"]) == (call.input_total, call.output_total)
    assert (line["first_ms"], line["queue_ms"]) == (call.first_ms, call.queue_ms)


async def test_a_call_whose_client_left_has_one_line_with_what_it_cost() -> None:
    """Its bill is known after its client is gone, and the line waits for it."""
    server = 'log_format = "json"'
    async with gateway([[reads(), says(HEAD + chunk("Hel")), stalls()]], server=server) as gate:
        client = await gate.daemon.connect()
        said = body(True)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        kind = f"Content-Type: application/json\r\nContent-Length: {len(said)}\r\n\r\n"
        await client.send((head + kind).encode() + said)
        await client.reader.readuntil(b"Hel")
        client.close()
        row = await gate.only_row()
        (line,) = await logged(gate)
    assert row.call.cost_nanousd
    assert (line["status"], line["ending"]) == (499, "client_left")
    assert line["cost_nanousd"] == row.call.cost_nanousd


async def test_a_line_of_text_tells_what_there_is_and_no_client_can_forge_it() -> None:
    """People read it, and `grep` does: one word a value, or quotes around it."""
    async with gateway([[reads(), says(whole())]]) as gate:
        await gate.ask(body(), **{"user-agent": "my app cost=$0"})

        def lines() -> list[str]:
            gate.daemon.server.output.flush()
            return [one for one in gate.daemon.log.read_text().splitlines() if " POST " in one]

        await until(lambda: bool(lines()))
        (line,) = lines()
    for part in ("target=up/m", "ending=answered", "cost=$0.000013", "input_tokens=7"):
        assert f" {part} " in line
    assert ' client="my app cost=$0" ' in line
    assert "stream" not in line and "queue_ms" not in line
