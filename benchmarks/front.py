"""Our worker behind the barest HTTP server: what it gives without a gateway in front of it.

    python benchmarks/front.py MODEL PORT SLOTS CONTEXT [KV]

No key, no queue, no budget, no ledger: the body goes to the worker, and its chunks to the client.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Literal, cast

import uvloop
from aiohttp import web

from tollway.providers.llamacpp.adapter import Limits, LocalModel, LocalModels


async def serve(model: Path, port: int, slots: int, context: int, kv: str) -> None:
    """Serve until ended."""
    split = cast(Literal["split", "unified"], kv)
    with tempfile.TemporaryDirectory() as folder:
        local = LocalModels(log_folder=Path(folder), limits=Limits(sweep_s=3600))
        known = LocalModel("bench", model, context, 0, 900.0, slots=slots, kv=split)
        await local.configure({"bench": known})
        await local.load("bench")

        async def chat(request: web.Request) -> web.StreamResponse:
            answer = await local.send("bench", "chat", await request.read())
            reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await reply.prepare(request)
            async for chunk in answer.chunks():
                await reply.write(chunk)
            await answer.close()
            return reply

        async def ready(_: web.Request) -> web.Response:
            return web.Response()

        app = web.Application()
        app.add_routes([web.post("/v1/chat/completions", chat), web.get("/health", ready)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            await asyncio.Event().wait()
        finally:
            await local.close()


if __name__ == "__main__":
    words = sys.argv[1:]
    kv = words[4] if len(words) > 4 else "split"
    uvloop.run(serve(Path(words[0]), int(words[1]), int(words[2]), int(words[3]), kv))
