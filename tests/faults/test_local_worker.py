"""A model on this box that dies, is left, or cannot be loaded, seen through the whole gateway."""

import json
import os
import signal
from hashlib import sha256

import pytest
from gateway import CHAT, KEY, error
from gguf_files import llama_gguf, real_model
from local_gateway import LONG, ask, begin, exact, models, row, said, serving, worker
from local_models import chat
from shell import Running, short_folder, until

from tollway.daemon.ledger.calls import recent

pytestmark = pytest.mark.local


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


async def test_who_leaves_while_his_prompt_is_read_pays_for_the_time_that_it_took() -> None:
    """Else a long prompt, left before its first token, would cost the model's time and nobody."""
    tables = models(smol=(real_model(), 2048))
    hourly = tables.replace("{ input = 1, output = 2 }", "{ gpu_hour = 3.6 }")
    async with serving(hourly) as daemon:
        assert (await ask(daemon, said(max_tokens=1))).status == 200
        data = said(messages=[{"role": "user", "content": "word " * 1800}], max_tokens=1)
        client = await daemon.connect()
        await client.send(
            f"POST {CHAT} HTTP/1.1\r\nHost: {daemon.host.decode()}\r\n"
            f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        await until(lambda: daemon.server.daemon.local.states()[0].running == 1)
        client.close()
        path = daemon.server.daemon.ledger.path
        await until(lambda: [found.state for found in recent(path, limit=3)] == ["settled"] * 2)
        found = recent(path, limit=1)[0]
        (attempt,) = (await row(daemon, found.id)).attempts
        assert attempt.gpu_ms
        assert found.cost_nanousd == attempt.gpu_ms * 1000


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
        assert "The model `local/smol` cannot do that: The prompt has" in told["message"], told
        refused = await ask(daemon, said(max_tokens=4, logit_bias={"9999999": 1}))
        told = error(refused)
        assert (refused.status, told["param"]) == (400, "logit_bias")
        begin = "The model `local/smol` cannot do that: There is no token 9999999"
        assert told["message"].startswith(begin), told


async def test_a_limit_in_llama_servers_words_holds_under_a_budget() -> None:
    """Elsewhere `n_predict` may pass what is held; a worker of ours takes it as one limit more."""
    async with serving() as daemon:
        for more in ({"n_predict": 3}, {"n_predict": 3, "max_tokens": 9}):
            reply = await ask(daemon, said(logit_bias={"0": -100, "2": -100}, **more))
            assert reply.json()["usage"]["completion_tokens"] == 3
        reply = await ask(daemon, said(n_predict=-1, max_tokens=2))
        assert reply.json()["usage"]["completion_tokens"] == 2
        reply = await ask(daemon, said(web_search=True))
        assert (reply.status, error(reply)["param"]) == (400, "web_search")


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
