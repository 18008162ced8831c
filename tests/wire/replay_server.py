"""An upstream that answers with recordings: the same status, headers and bytes, cut as asked.

    async with ReplayServer() as server:
        base_url = server.url("groq/chat_err400_gpt-oss-120b")          # always this recording
        base_url = server.url("openai/chat_stream_gpt-4o", chunk="1")   # a byte at a time
        base_url = f"{server.address}/v1"                               # the one most alike

`chunk` is whole, event, recorded (as the client saw it, else event), utf8 (inside every character
of several bytes), random:SEED, or a number of bytes. `fault` is drop:N (the connection is aborted
after N bytes), truncate:N (the answer ends properly after N bytes), stall:N (nothing more comes
after N bytes), reset (aborted before the status), or status:CODE.
"""

import asyncio
import contextlib
import json
import random
import re
from itertools import pairwise
from typing import Any, Self

from aiohttp import web
from wire.recordings import Recording, recordings

_NOT_SENT = {"content-length", "transfer-encoding", "content-encoding", "connection"}


def cut(body: bytes, how: str, recorded: tuple[int, ...] = ()) -> list[bytes]:
    """Return the pieces of a body, which joined are the body."""
    if how == "recorded" and sum(recorded) == len(body):
        ends = [sum(recorded[: number + 1]) for number in range(len(recorded))]
    elif how in ("event", "recorded"):
        ends = [found.end() for found in re.finditer(rb"\r\n\r\n|\n\n|\r\r", body)]
    elif how == "utf8":
        ends = [at for at in range(1, len(body)) if body[at] & 0xC0 == 0x80]
    elif how.startswith("random:"):
        chance = random.Random(how.removeprefix("random:"))  # noqa: S311 - must repeat itself
        ends = sorted(chance.sample(range(len(body)), len(body) // 20))
    else:
        ends = [] if how == "whole" else list(range(int(how), len(body), int(how)))
    marks = [0, *(end for end in ends if 0 < end < len(body)), len(body)]
    return [body[a:b] for a, b in pairwise(marks)]


class ReplayServer:
    """Serves every recording on loopback; `received` lists the bodies that came in."""

    def __init__(self) -> None:
        self.recordings = {one.id: one for one in recordings()}
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.address = ""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{rest:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def url(self, recording: str, *, chunk: str = "event", fault: str = "") -> str:
        """Return a base URL under which every path gives this recording."""
        assert recording in self.recordings, f"no recording is named {recording}"
        return f"{self.address}/_replay/{recording};{chunk};{fault}/v1"

    def like(self, path: str, asked: dict[str, Any]) -> Recording:
        """Return the recording of the same endpoint whose request is most alike."""
        tail = path.rpartition("/v1")[2]
        said = {(key, json.dumps(value)) for key, value in asked.items()}

        def alike(one: Recording) -> tuple[bool, bool, int]:
            other = {(key, json.dumps(value)) for key, value in one.asked.items()}
            same = one.asked.get("model") == asked.get("model")
            return same, one.streamed == bool(asked.get("stream")), len(said & other)

        fitting = [one for one in self.recordings.values() if one.path.endswith(tail)]
        return max(fitting, key=alike)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.received.append((dict(request.headers), body))
        chunk, fault = "event", ""
        if request.path.startswith("/_replay/"):
            provider, _, rest = request.path.removeprefix("/_replay/").partition("/")
            name, chunk, rest = rest.split(";", 2)
            fault = rest.partition("/")[0]
            recording = self.recordings[f"{provider}/{name}"]
        else:
            recording = self.like(request.path, json.loads(body or b"{}"))
        kind, _, amount = fault.partition(":")
        if kind == "reset":
            _abort(request)
        if kind == "status":
            return web.json_response({"error": {"message": fault}}, status=int(amount))
        return await _send(request, recording, chunk, kind, int(amount or len(recording.body)))


async def _send(
    request: web.Request, recording: Recording, chunk: str, kind: str, most: int
) -> web.StreamResponse:
    headers = {key: text for key, text in recording.headers.items() if key not in _NOT_SENT}
    headers.setdefault(
        "content-type", "text/event-stream" if recording.streamed else "application/json"
    )
    answer = web.StreamResponse(status=recording.status, headers=headers)
    await answer.prepare(request)
    for piece in cut(recording.body[:most], chunk, recording.chunk_sizes):
        await answer.write(piece)
        await asyncio.sleep(0)  # let each piece leave by itself where it can
    if kind == "drop":
        _abort(request)
    if kind == "stall":
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    await answer.write_eof()
    return answer


def _abort(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()
    raise asyncio.CancelledError
