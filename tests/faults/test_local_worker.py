"""A model on this box that dies, is left, or cannot be loaded, seen through the whole gateway."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from gateway import CHAT, KEY, body, config, error
from gguf_files import llama_gguf, real_model
from local_models import chat
from shell import Client, Reply, Running, running, short_folder, until

from tollway.daemon.ledger.calls import CallDetail, one, recent
from tollway.daemon.ledger.verify import verify

pytestmark = pytest.mark.local

INPUT, OUTPUT = 1000, 2000  # nano-dollars a token, by the price below
LONG = [{"role": "user", "content": "Count from one to three hundred in words."}]


def models(**paths: tuple[Path, int]) -> str:
    """Return tables for models, each with its file and its context."""
    return "".join(
        f'[models.{name}]\ngguf = "{path}"\ncontext = {context}\ngpu_layers = 0\n'
        "price = { input = 1, output = 2 }\n"
        for name, (path, context) in paths.items()
    )


@contextlib.asynccontextmanager
async def serving(tables: str = "") -> AsyncIterator[Running]:
    """Yield a gateway with the small real model, or what the tables say."""
    tables = tables or models(smol=(real_model(), 2048))
    async with running(tables + config([], budget="100/day"), server="") as daemon:
        yield daemon
        inner = daemon.server.daemon
        await until(lambda: inner.active == 0)
        assert all(state.held_nanousd == 0 for state in inner.gate.purse.states())
        await until(lambda: verify(inner.ledger.path) == [])


def said(**fields: Any) -> bytes:
    """Return a call of the model."""
    return body(**{"model": "local/smol", "temperature": 0, **fields})


async def ask(daemon: Running, data: bytes) -> Reply:
    """Send a call and return its answer."""
    return await daemon.ask("POST", CHAT, data, authorization=f"Bearer {KEY}")


async def begin(daemon: Running, data: bytes) -> tuple[Client, str]:
    """Begin a stream; return its connection and its id once three events have come."""
    client = await daemon.connect()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: {daemon.host.decode()}\r\nConnection: close\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    await client.send(head.encode() + data)
    async with asyncio.timeout(60):
        answer = (await client.reader.readuntil(b"\r\n\r\n")).decode().lower()
        for _ in range(3):
            await client.reader.readuntil(b"\n\n")
    assert answer.startswith("http/1.1 200"), answer
    return client, answer.partition("x-tollway-request-id: ")[2].partition("\r\n")[0]


async def row(daemon: Running, call_id: str) -> CallDetail:
    """Return a call's row once it is settled."""
    path = daemon.server.daemon.ledger.path
    await until(lambda: one(path, call_id).call.state != "open")
    return one(path, call_id)


def worker(daemon: Running) -> int:
    """Return the process of the model."""
    (state,) = daemon.server.daemon.local.states()
    assert state.pid is not None
    return state.pid


async def test_a_worker_killed_in_a_stream_ends_it_with_an_error_and_an_exact_row() -> None:
    """The client gets an error event and no end mark; what came out is billed; the next works."""
    async with serving() as daemon:
        client, call_id = await begin(daemon, said(stream=True, messages=LONG, max_tokens=1500))
        os.kill(worker(daemon), signal.SIGKILL)
        rest = await client.all()
        assert b"[DONE]" not in rest
        last = rest.split(b"data: ")[-1].partition(b"\n\n")[0]
        assert "was killed by SIGKILL" in json.loads(last)["error"]["message"]
        assert json.loads(last)["error"]["request_id"] == call_id
        assert rest.endswith(b"0\r\n\r\n")
        found = (await row(daemon, call_id)).call
        seen = 3 + rest.count(b'"content":')
        assert (found.state, found.ending) == ("settled", "upstream_broke")
        assert not found.estimated
        assert abs(found.output_tokens - seen) <= 3
        assert found.input_tokens > 0
        assert found.cost_nanousd == exact(found)
        reply = await ask(daemon, said(max_tokens=4))
        assert reply.status == 200
        assert reply.json()["usage"]["completion_tokens"] > 0


def exact(found: Any) -> int:
    """Return what a call's tokens cost."""
    total = (found.input_tokens + found.cache_read_tokens) * INPUT
    return int(total + found.output_tokens * OUTPUT)


async def test_a_worker_killed_before_its_whole_answer_is_a_503() -> None:
    """A call that is not streamed gets an error with words, and its row says what was made."""
    async with serving() as daemon:
        assert (await ask(daemon, said(max_tokens=1))).status == 200
        asking = asyncio.create_task(ask(daemon, said(messages=LONG, max_tokens=1500)))
        await until(lambda: daemon.server.daemon.local.states()[0].running == 1)
        os.kill(worker(daemon), signal.SIGKILL)
        reply = await asking
        assert (reply.status, error(reply)["code"]) == (503, "local_model_failed")
        assert "x-should-retry" not in reply.headers  # the next call starts it again
        found = (await row(daemon, reply.headers["x-tollway-request-id"])).call
        assert (found.ending, found.estimated) == ("failed", False)
        assert found.cost_nanousd == exact(found)
        assert (await ask(daemon, said(max_tokens=4))).status == 200


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_client_that_leaves_stops_the_generation(stream: bool) -> None:
    """Nobody reads on: no token more is made, and what was made is billed exactly."""
    async with serving() as daemon:
        assert (await ask(daemon, said(max_tokens=1))).status == 200
        data = said(stream=stream, messages=LONG, max_tokens=1500)
        if stream:
            client, _ = await begin(daemon, data)
        else:
            client = await daemon.connect()
            await client.send(
                f"POST {CHAT} HTTP/1.1\r\nHost: {daemon.host.decode()}\r\n"
                f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(data)}\r\n\r\n".encode()
                + data
            )
            await until(lambda: daemon.server.daemon.local.states()[0].running == 1)
        client.close()
        await until(lambda: daemon.server.daemon.local.states()[0].running == 0)
        path = daemon.server.daemon.ledger.path
        await until(lambda: [found.state for found in recent(path, limit=3)] == ["settled"] * 2)
        found = recent(path, limit=1)[0]
        assert (found.ending, found.estimated) == ("client_left", False)
        assert found.output_tokens < 1000
        assert found.cost_nanousd == exact(found)
        assert (await ask(daemon, said(max_tokens=4))).status == 200


async def test_a_file_that_cannot_be_a_model_is_a_clear_503() -> None:
    """Cut short, no GGUF, gone, too large for this box: each says what, and nothing is billed."""
    with short_folder() as folder:
        cut, other, gone, huge = (
            folder / f"{name}.gguf" for name in ("cut", "other", "gone", "huge")
        )
        with real_model().open("rb") as file:
            cut.write_bytes(file.read(20_000_000))
        other.write_bytes(b"PK\x03\x04" + bytes(1000))
        huge.write_bytes(llama_gguf(llama__context_length=2**31 - 1))
        tables = models(
            cut=(cut, 2048), other=(other, 2048), gone=(gone, 2048), huge=(huge, 2**31 - 1)
        )
        async with serving(tables) as daemon:
            for name, word in (
                ("cut", "cut short"),
                ("other", "GGUF"),
                ("gone", "gone.gguf"),
                ("huge", "memory"),
            ):
                for stream in (False, True):
                    reply = await ask(daemon, said(model=f"local/{name}", stream=stream))
                    told = error(reply)
                    assert (reply.status, told["code"]) == (503, "local_model_failed"), name
                    assert word in told["message"], (name, told)
                    assert reply.headers["x-should-retry"] == "false"
                    assert str(folder) not in told["message"]
                    found = (await row(daemon, reply.headers["x-tollway-request-id"])).call
                    assert (found.cost_nanousd, found.ending) == (0, "failed")


async def test_a_private_key_s_prefix_is_its_own() -> None:
    """What its calls leave in a model's memory is found by its own next call, and by no other's.

    Nor does it find what others left: whether a prompt is known is seen in time and in usage.
    """
    keys = {"ann": KEY, "bea": "tw-" + "b" * 40, "cyd": "tw-" + "c" * 40, "dan": "tw-" + "d" * 40}
    tables = "".join(
        f'[keys.{name}]\nhash = "sha256:{sha256(keys[name].encode()).hexdigest()}"\nuser = "ann"\n'
        f"private_prefix = {'false' if name == 'dan' else 'true'}\n"
        for name in ("bea", "cyd", "dan")
    )
    files = models(smol=(real_model(), 512)) + "slots = 4\n"
    prompt = "A secret of the house: " + "the key lies under the third stone. " * 12

    async def known(daemon: Running, name: str) -> bool:
        asked = said(messages=[{"role": "user", "content": prompt}], max_tokens=1)
        reply = await daemon.ask("POST", CHAT, asked, authorization=f"Bearer {keys[name]}")
        usage = reply.json()["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert cached in (0, usage["prompt_tokens"] - 2), usage
        return bool(cached)

    async with serving(files + tables) as daemon:
        callers = ("bea", "ann", "dan", "cyd", "bea", "cyd", "ann")
        found = [await known(daemon, name) for name in callers]
    assert found == [False, False, True, False, True, True, True]


async def test_what_a_model_of_this_box_cannot_do_is_said_as_its_own() -> None:
    """No provider is there to have answered: it is the model that says no, and why."""
    async with serving(models(smol=(real_model(), 64))) as daemon:
        reply = await ask(daemon, said(messages=[{"role": "user", "content": "word " * 99}]))
        told = error(reply)
        assert (reply.status, told["code"]) == (400, "context_length_exceeded")
        begin = "The model `local/smol` cannot do that: The prompt has"
        assert told["message"].startswith(begin), told
        refused = await ask(daemon, said(max_tokens=4, logit_bias={"9999999": 1}))
        told = error(refused)
        assert (refused.status, told["param"]) == (400, "logit_bias")
        begin = "The model `local/smol` cannot do that: There is no token 9999999"
        assert told["message"].startswith(begin), told


async def test_a_dead_model_takes_no_other_call_with_it() -> None:
    """While one model's worker is killed, the daemon answers all else."""
    async with serving() as daemon:
        client, _ = await begin(daemon, chat_of(1500))
        os.kill(worker(daemon), signal.SIGKILL)
        listed = await daemon.ask("GET", "/v1/models", authorization=f"Bearer {KEY}")
        assert [model["id"] for model in listed.json()["data"]] == ["local/smol"]
        assert (await daemon.ask("GET", "/readyz")).status == 200
        assert b"was killed by SIGKILL" in await client.all()


def chat_of(tokens: int) -> bytes:
    """Return a long stream's call."""
    asked = json.loads(chat("Count to three hundred.", stream=True, max_tokens=tokens))
    return json.dumps({**asked, "model": "local/smol"}).encode()
