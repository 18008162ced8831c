"""What the gateway's own code costs for each event that it passes on: microseconds of CPU.

    python benchmarks/relay.py [--events 2000] [--rounds 7] [--streams 1,500]

From the bytes that the loop hands over to the bytes that it is given back, in one process: no
network, no kernel and no event loop's work, which `gateway.py` has beside it. The answers are the
longest recorded ones of each dialect, in chunks of an event each, as providers send them.
"""

import argparse
import asyncio
import itertools
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httptools
import uvloop

from tollway.daemon.connection import Connection as Edge
from tollway.daemon.direct import Direct
from tollway.daemon.gate import receive
from tollway.daemon.gate.attempt import Attempt
from tollway.daemon.gate.pipe import Head, Pipe
from tollway.providers.canon import Call
from tollway.providers.dialects.table import DIALECTS
from tollway.providers.http.answer import HttpAnswer
from tollway.providers.http.connection import Connection
from tollway.providers.http.portions import Portions
from tollway.providers.sse import Splitter

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from wire.recordings import recordings

# Whose streams, and what stands in the events that make up nearly all of one.
TYPICAL = {
    "openai_chat": ("openai.chat", b'"delta":{"content"'),
    "anthropic_messages": ("anthropic.messages", b'"text_delta"'),
    "openai_responses": ("openai.responses", b'output_text.delta"'),
    "gemini": ("gemini.streamGenerateContent", b'"text"'),
}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Transport:
    """Takes what is written, and counts it."""

    size = 0

    def is_closing(self) -> bool:
        """Return that it is open."""
        return False

    def abort(self) -> None:
        """Do nothing: there is nobody on the other side."""

    def write(self, data: bytes) -> None:
        """Count."""
        self.size += len(data)


def typical(dialect: str, count: int) -> list[bytes]:
    """Return so many events of the longest recorded stream, over and over."""
    api, mark = TYPICAL[dialect]
    found: list[bytes] = []
    for one in recordings():
        if one.api == api and one.streamed:
            events = [event.raw for event in Splitter().feed(one.body) if mark in event.raw]
            # What is larger than a portion waits for its turn of the loop, of which there is none.
            events = [event for event in events if len(event) < Connection.PORTION - 16]
            found = max(found, events, key=len)
    return (found * (count // len(found) + 1))[:count]


def pieces(dialect: str, client: Transport) -> tuple[Connection, HttpAnswer, Any]:
    """Return a connection, its answer and the relay behind it; a budget watches the call."""
    owner = SimpleNamespace(opened=None, rests=lambda _: 1.0, lost=None, portions=Portions())
    place = SimpleNamespace(name="up", scheme="http")
    route: Any = SimpleNamespace(key=("up", 1), place=place, proxy=None)
    connection = Connection(asyncio.get_running_loop(), route, owner)  # type: ignore[arg-type]
    connection._transport = Transport()  # type: ignore[assignment]
    connection._parser = httptools.HttpResponseParser(connection)
    answer = connection._answer = HttpAnswer(connection, asyncio.get_running_loop(), "up")
    answer.idle_s = 300.0
    call = Call("chat", dialect, "m", b"{}", stream=True)
    attempt: Any = Attempt.__new__(Attempt)
    attempt.reader = DIALECTS[dialect].dialect.reader(call, frozenset())
    attempt.binding, attempt.opened = True, SimpleNamespace(hold_nanousd=10**12)
    attempt.most_bytes, attempt._reported_last, attempt.first_ms = 10**9, None, 1
    attempt._billed = lambda _: (0, None, None)
    attempt.version = SimpleNamespace(said=None)
    attempt.target = SimpleNamespace(timeouts=SimpleNamespace(idle_s=300.0), provider="up")
    to: Any = Direct.__new__(Direct)
    to._connection, to.transport = SimpleNamespace(transport=client, send=Edge.send), client
    to.takes_chunks, to.full, to.drained, to.status = True, False, None, 200
    pipe = Pipe()
    pipe.join(to, 0.0)
    pipe.head, pipe._begun, pipe.through = Head(200, (), streamed=True), True, to.pass_on
    exchange: Any = SimpleNamespace(call=call, pipe=pipe)
    relay = receive._Relay(exchange, attempt, answer, Splitter())
    relay.shown = True
    return connection, answer, relay


async def measured(dialect: str, count: int, rounds: int, streams: int) -> float:
    """Return the microseconds of an event, in the best round; streams take turns."""
    chunks = [b"%x\r\n%s\r\n" % (len(event), event) for event in typical(dialect, count)]
    client = Transport()
    connections, tasks = [], []
    for _ in range(streams):
        connection, answer, relay = pieces(dialect, client)
        connection.data_received(HEAD)
        tasks.append(asyncio.ensure_future(receive._each(answer, relay)))
        await asyncio.sleep(0)
        connection.data_received(chunks[0])
        connections.append(connection)
    await asyncio.sleep(0)
    best = float("inf")
    for _ in range(rounds):
        turns = itertools.cycle(connections)
        before = time.process_time_ns()
        for chunk in chunks:
            next(turns).data_received(chunk)
        best = min(best, (time.process_time_ns() - before) / count / 1000)
    assert client.size > rounds * sum(map(len, chunks)) * 0.9, "it was not passed on"
    for task in tasks:
        task.cancel()
    return best


def main() -> None:
    """Print a line for each dialect."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--streams", default="1,500", help="how many take turns")
    asked = parser.parse_args()
    for streams in map(int, asked.streams.split(",")):
        for dialect in TYPICAL:
            each = uvloop.run(measured(dialect, asked.events, asked.rounds, streams))
            print(f"{streams:4} streams, {dialect:20} {each:6.2f} us an event")


if __name__ == "__main__":
    main()
