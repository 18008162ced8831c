"""A gateway before providers that do whatever chance says, with every rule about money in force."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import msgspec
from gateway import CHAT, KEY, Gateway, whole
from shell import running
from upstreams import Peer, Step, Upstream, answer, resets, upstream

MESSAGES = "/v1/messages"
SSE = "Content-Type: text/event-stream"
FAULTS = (
    *("answer",) * 6,
    *("500", "429", "hint", "401", "402", "400", "overflow", "404", "html", "reset", "hang up"),
    *("breaks", "error inside", "no usage", "error first"),
)
STATUS = {
    "500": "500 Oh",
    "429": "429 Slow",
    "hint": "429 Slow",
    "401": "401 Who",
    "402": "402 Pay",
    "400": "400 Bad",
    "404": "404 No",
    "overflow": "400 Bad",
}


def _said_bytes(said: Any) -> int:
    """Return the bytes of all texts: no tokenizer makes more tokens of them."""
    if isinstance(said, str):
        return len(said.encode())
    if isinstance(said, list):
        return sum(map(_said_bytes, said))
    if isinstance(said, dict):
        return sum(_said_bytes(said.get(key)) for key in ("content", "text", "system", "messages"))
    return 0


class Wild:
    """What all providers do: an answer as dear as the request allows, or a fault."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.look: Any = lambda: None  # called while an attempt is under way
        self.seen = 0

    def step(self, dialect: str) -> Step:
        """Return what a provider of a dialect does on one connection."""

        async def step(peer: Peer) -> None:
            request = await peer.read_request()
            self.seen += 1
            self.look()
            said = msgspec.json.decode(request.partition(b"\r\n\r\n")[2])
            fault = self.dice.choice(FAULTS)
            await asyncio.sleep(self.dice.choice((0, 0, 0.003)))
            await self._does(peer, dialect, said, fault)

        return step

    async def _does(self, peer: Peer, dialect: str, said: Any, fault: str) -> None:
        if fault in STATUS:
            more = ["retry-after-ms: 2"] if fault == "hint" else []
            code = "context_length_exceeded" if fault == "overflow" else "no"
            body = msgspec.json.encode({"error": {"message": "No: " + code, "code": code}})
            await peer.say(whole(body, *more, status=STATUS[fault]))
        elif fault == "html":
            await peer.say(answer(b"<html>", "Content-Type: text/html"))
        elif fault == "reset":
            await resets()(peer)
        elif fault == "hang up":
            return
        else:
            most = said.get("max_tokens") or said.get("max_completion_tokens") or 1
            out = self.dice.choice((1, most))
            used = (_said_bytes(said), out)
            events = _openai(used, fault) if dialect == "openai" else _anthropic(used, fault)
            if not said.get("stream"):
                await peer.say(_whole(dialect, used, fault))
                return
            await peer.say(f"HTTP/1.1 200 OK\r\n{SSE}\r\nConnection: close\r\n\r\n".encode())
            for event in events:
                await peer.say(event)
                await asyncio.sleep(0)


def _whole(dialect: str, used: tuple[int, int], fault: str) -> bytes:
    if fault in ("error inside", "error first"):
        return whole(b'{"error":{"message":"Ill","code":"ill"}}')
    if dialect == "openai":
        body: dict[str, Any] = {
            "id": "c",
            "object": "chat.completion",
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "x"},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": used[0], "completion_tokens": used[1]},
        }
    else:
        body = {
            "id": "c",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": "x"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": used[0], "output_tokens": used[1]},
        }
    if fault == "no usage":
        del body["usage"]
    data = msgspec.json.encode(body)
    if fault == "breaks":
        return answer(data, "Content-Type: application/json")[:-9]
    return whole(data)


def _event(said: Any, name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + msgspec.json.encode(said) + b"\n\n"


def _openai(used: tuple[int, int], fault: str) -> list[bytes]:
    def chunk(delta: Any, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _event({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})

    failed = _event({"error": {"message": "Ill", "code": "ill"}})
    if fault == "error first":
        return [failed]
    events = [chunk({"role": "assistant", "content": ""}), chunk({"content": "x"})]
    if fault == "breaks":
        return events
    if fault == "error inside":
        return [*events, failed]
    events.append(chunk({}, "stop"))
    if fault != "no usage":
        usage = {"prompt_tokens": used[0], "completion_tokens": used[1]}
        events.append(_event({"id": "c", "choices": [], "usage": usage}))
    return [*events, b"data: [DONE]\n\n"]


def _anthropic(used: tuple[int, int], fault: str) -> list[bytes]:
    def event(name: str, **said: Any) -> bytes:
        return _event({"type": name} | said, name)

    failed = event("error", error={"type": "api_error", "message": "Ill"})
    if fault == "error first":
        return [failed]
    message = {"id": "c", "type": "message", "role": "assistant", "model": "m", "content": []}
    start = {"input_tokens": used[0], "output_tokens": 1}
    events = [
        event("message_start", message=message | {"usage": start}),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "x"}),
    ]
    if fault == "breaks":
        return events
    if fault == "error inside":
        return [*events, failed]
    return [
        *events,
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": used[1]}),
        event("message_stop"),
    ]


def settings(ups: list[Upstream], dice: random.Random) -> str:
    """Return a gateway.toml in which everything that touches money meets, drawn by chance."""
    rich = dice.choice((1, 10, 10))

    def cap(*usd: float) -> str:
        mode = dice.choice(("hard", "clamp"))
        return f'{{ usd = {dice.choice(usd) * rich}, per = "day", at = "{mode}" }}'

    strategy = dice.choice(["ordered", "weighted", "fastest", "cheapest", "least-busy"])
    shares = '{ target = "up0/m", weight = 3 }' if strategy == "weighted" else '"up0/m"'
    return f"""
{_providers(ups, dice)}
[routes.r]
to = [{shares}, "up1/m"]
strategy = "{strategy}"
retries = {dice.randint(0, 3)}
deadline = "{dice.choice(("200ms", "5s"))}"
fallback = ["s"]
aliases = ["alias-*"]
default_output = 40
budget = [{cap(0.005, 0.02, 1)}]
when = [
    {{ budget_over = {dice.choice((0.1, 0.5, 0.9))}, to = ["up1/n"], max_output = 30 }},
    {{ stream = true, max_output = 25, system_prefix = "Ärger: {"ﷺ" * 30}" }},
]
[routes.s]
to = ["up2/claude-sonnet-4-5"]
system_prefix = "Short."
[groups.all]
models = ["*"]
[teams.ml]
groups = ["all"]
budget = [{cap(0.01, 0.05)}, "1/hour"]
[users.ann]
team = "ml"
budget = [{cap(0.004, 0.03)}]
[keys.laptop]
hash = "sha256:{sha256(KEY.encode()).hexdigest()}"
user = "ann"
[tags.run]
1 = {{ budget = [{{ usd = 0.01, per = "day", at = "clamp" }}] }}
"""


def _providers(ups: list[Upstream], dice: random.Random) -> str:
    """Return two pools of keys, and one with slots and a discount; each with a price."""
    pool = 'api_keys = ["env:POOL_ONE", "env:POOL_TWO"]'
    own = [
        f'{pool}\nbudget = ["{dice.choice((0.002, 0.01, 1))}/day"]',
        'discount = 0.7\ncommit = { usd = 5, per = "month" }\nslots = 2',
        pool,
    ]
    tables = []
    for at, up in enumerate(ups):
        kind, path, fee = (
            ("anthropic", "", "request = 0.00001") if at == 2 else ("openai", "/v1", "")
        )
        tables.append(
            f"""
[providers.up{at}]
kind = "{kind}"
base_url = "http://127.0.0.1:{up.port}{path}"
{own[at]}
[prices."up{at}/*"]
input = {at + 1}
output = {2 * at + 3}
{fee}
"""
        )
    return "".join(tables)


def request(dice: random.Random) -> tuple[str, bytes, dict[str, str]]:
    """Return a call's path, body and headers."""
    path = dice.choice((CHAT, CHAT, MESSAGES))
    said: dict[str, Any] = {
        "model": dice.choice(("r", "r", "alias-1", "up0/m", "s")),
        "messages": [{"role": "user", "content": "Hi " * dice.choice((1, 40))}],
    }
    if dice.random() < 0.4:
        said["stream"] = True
    if path == MESSAGES or dice.random() < 0.6:
        said["max_tokens"] = dice.choice((1, 20, 200))
    headers = {}
    if dice.random() < 0.5:
        headers["x-session-id"] = dice.choice("ab")
    if dice.random() < 0.3:
        headers["x-tollway-tags"] = "run=1"
    return path, msgspec.json.encode(said), headers


@contextlib.asynccontextmanager
async def world(dice: random.Random) -> AsyncIterator[tuple[Gateway, Wild]]:
    """Yield a gateway and what its providers do."""
    wild = Wild(dice)
    async with contextlib.AsyncExitStack() as stack:
        ups = [
            await stack.enter_async_context(
                upstream([wild.step("anthropic" if at == 2 else "openai")])
            )
            for at in range(3)
        ]
        daemon = await stack.enter_async_context(running(settings(ups, dice), server=""))
        daemon.server.daemon.health.chance = lambda: 0.01
        yield Gateway(daemon, ups), wild
