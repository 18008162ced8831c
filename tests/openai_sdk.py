"""OpenAI's own client library, its two kinds of client alike, and what it makes of an answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from operator import attrgetter
from typing import Any, Literal

import openai

Kind = Literal["async", "sync"]
KINDS: tuple[Kind, ...] = ("async", "sync")


class Sdk:
    """One client of either kind, unchanged; `call("chat.completions.create", ...)` and the like."""

    def __init__(self, client: openai.OpenAI | openai.AsyncOpenAI) -> None:
        self.client = client

    async def call(self, method: str, **said: Any) -> Any:
        """Return what a method returns; a stream as the list of its chunks."""
        find = attrgetter(method)
        if isinstance(self.client, openai.AsyncOpenAI):
            found = await find(self.client)(**said)
            return [chunk async for chunk in found] if said.get("stream") else found
        return await asyncio.to_thread(self._call, find(self.client), said)

    @staticmethod
    def _call(method: Any, said: dict[str, Any]) -> Any:
        found = method(**said)
        return list(found) if said.get("stream") else found

    async def models(self) -> list[str]:
        """Return the ids of the models it lists."""
        if isinstance(self.client, openai.AsyncOpenAI):
            return [model.id async for model in self.client.models.list()]
        client = self.client
        return await asyncio.to_thread(lambda: [model.id for model in client.models.list()])


@contextlib.asynccontextmanager
async def sdk(kind: Kind, base_url: str, key: str, *, retries: int = 2) -> AsyncIterator[Sdk]:
    """Yield a client; two retries are its own default."""
    if kind == "async":
        async with openai.AsyncOpenAI(
            base_url=base_url, api_key=key, max_retries=retries
        ) as client:
            yield Sdk(client)
    else:
        with openai.OpenAI(base_url=base_url, api_key=key, max_retries=retries) as client:
            yield Sdk(client)


def plain(found: Any) -> Any:
    """Return an object or chunks of the library as what was in the JSON."""
    if isinstance(found, list):
        return [plain(one) for one in found]
    return found.model_dump(mode="json", warnings=False)


def tool_calls(chunks: list[Any]) -> list[dict[str, Any]]:
    """Return the tool calls of a stream, put together as programs do, by their index."""
    calls: dict[int, dict[str, Any]] = {}
    for piece in _pieces(chunks):
        call = calls.setdefault(piece.index, {"id": None, "name": "", "arguments": ""})
        call["id"] = piece.id or call["id"]
        if piece.function:
            call["name"] += piece.function.name or ""
            call["arguments"] += piece.function.arguments or ""
    return [calls[index] for index in sorted(calls)]


def _pieces(chunks: list[Any]) -> Iterator[Any]:
    for chunk in chunks:
        for choice in chunk.choices:
            yield from choice.delta.tool_calls or ()
