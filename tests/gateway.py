"""A whole gateway before an upstream that follows a script, and what its ledger then says."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import Any

import msgspec
from shell import Reply, Running, running, until
from upstreams import Step, Upstream, answer, upstream

from tollway.daemon.ledger.calls import CallDetail, CallUnknown, one, recent

KEY = "tw-" + "k" * 40
CHAT = "/v1/chat/completions"
# Nano-dollars for a token, by the prices below.
INPUT, OUTPUT = 1000, 2000
WHOLE = (
    b'{"id":"chatcmpl-1","object":"chat.completion","model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,'
    b'"completion_tokens":3,"total_tokens":10}}'
)
SSE = "Content-Type: text/event-stream"


def chunk(text: str = "", finish: str | None = None) -> bytes:
    """Return one event of a chat stream."""
    delta = {"content": text} if text else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


USED = (
    b'data: {"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
)
DONE = b"data: [DONE]\n\n"
HEAD = f"HTTP/1.1 200 OK\r\n{SSE}\r\nConnection: close\r\n\r\n".encode()


def whole(body: bytes = WHOLE, *headers: str, status: str = "200 OK") -> bytes:
    """Return a whole JSON answer."""
    return answer(body, "Content-Type: application/json", *headers, status=status)


def body(stream: bool = False, /, **fields: object) -> bytes:
    """Return a chat request."""
    said: dict[str, object] = {
        "model": "up/m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 10,
    }
    if stream:
        said["stream"] = True
    said |= fields
    return msgspec.json.encode({name: value for name, value in said.items() if value is not None})


class Gateway:
    """A running daemon, its upstreams, and its ledger."""

    def __init__(self, daemon: Running, ups: Sequence[Upstream]) -> None:
        self.daemon = daemon
        self.ups = ups

    async def ask(self, said: bytes | None = None, path: str = CHAT, **headers: str) -> Reply:
        """Send a call and return its answer; a stream's body still has its chunk lengths."""
        sent = {"authorization": f"Bearer {KEY}"} | headers
        return await self.daemon.ask("POST", path, said or body(), admin=False, **sent)

    async def row(self, reply: Reply) -> CallDetail:
        """Return the call's row once it is settled."""
        return await self.settled(reply.headers["x-tollway-request-id"])

    async def settled(self, call_id: str) -> CallDetail:
        """Return a call's row once it is settled."""
        path = self.daemon.server.daemon.ledger.path

        def ended() -> bool:
            try:
                return one(path, call_id).call.state not in {"open", "queued"}
            except CallUnknown:
                return False  # nobody waits for the row of a refusal

        await until(ended)
        return one(path, call_id)

    async def only_row(self) -> CallDetail:
        """Return the row of the only call there is, once it is settled."""
        path = self.daemon.server.daemon.ledger.path
        await until(lambda: len(recent(path, limit=2)) == 1)
        return await self.settled(recent(path, limit=2)[0].id)

    def held(self) -> int:
        """Return what is held in all accounts together, in nano-dollars."""
        states = self.daemon.server.daemon.gate.purse.states()
        return sum(state.held_nanousd for state in states)


def config(
    ups: Sequence[Upstream], provider: str = "", more: str = "", budget: str = "1/day"
) -> str:
    """Return a configuration with a key, and providers `up`, `up2` ... at the upstreams."""
    tables = [
        f"""[providers.up{number or ""}]
kind = "openai"
base_url = "http://127.0.0.1:{up.port}/v1"
{provider}
[prices."up{number or ""}/*"]
input = 1
output = 2
"""
        for number, up in enumerate(ups)
    ]
    return "\n".join(
        [
            *tables,
            f"""
[groups.all]
models = ["*"]
[teams.ml]
groups = ["all"]
[users.ann]
team = "ml"
budget = ["{budget}"]
[keys.laptop]
hash = "sha256:{sha256(KEY.encode()).hexdigest()}"
user = "ann"
""",
            more,
        ]
    )


@contextlib.asynccontextmanager
async def gateway(
    *scripts: Sequence[Sequence[Step]],
    provider: str = "",
    more: str = "",
    budget: str = "1/day",
    server: str = "",
    ledger: str = "",
) -> AsyncIterator[Gateway]:
    """Yield a gateway before one upstream for each argument, each with its list of scripts.

    `server` and `ledger` are further lines of those tables.
    """
    async with contextlib.AsyncExitStack() as stack:
        ups = [await stack.enter_async_context(upstream(*one)) for one in scripts]
        daemon = await stack.enter_async_context(
            running(f"{ledger}\n{config(ups, provider, more, budget)}", server=server)
        )
        yield Gateway(daemon, ups)


def events(reply: Reply) -> list[bytes]:
    """Return the events of a chunked stream, as the client sees them."""
    rest, data = reply.body + reply.rest, b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        data, rest = data + rest[:length], rest[length + 2 :]
    return [event + b"\n\n" for event in data.split(b"\n\n") if event]


def error(reply: Reply) -> dict[str, Any]:
    """Return the error that a body tells."""
    found: dict[str, Any] = reply.json()["error"]
    return found
