"""A gateway with rate limits, whose time passes when the test says so."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from gateway import Gateway, error, gateway, whole
from shell import Reply
from upstreams import Step, reads, says

S = 1_000_000_000
SERVES = [reads(), says(whole())]
USAGE = 10  # tokens that WHOLE reports


class Clock:
    """A monotonic clock that stands still until it is moved on."""

    def __init__(self) -> None:
        self.ns = 10**15

    def __call__(self) -> int:
        """Return the time in nanoseconds."""
        return self.ns

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.ns += round(seconds * S)


@contextlib.asynccontextmanager
async def limited(
    *scripts: Sequence[Sequence[Step]], limits: str, **more: Any
) -> AsyncIterator[tuple[Gateway, Clock]]:
    """Yield a gateway with some lines of limits, and its clock."""
    async with gateway(*(scripts or ([SERVES],)), more=limits, **more) as gate:
        clock = gate.daemon.server.daemon.rates.clock_ns = Clock()
        yield gate, clock


def on(table: str, **limits: int) -> str:
    """Return the lines that limit a table."""
    return "\n".join([f"[{table}.limits]", *(f"{name} = {most}" for name, most in limits.items())])


async def left(gate: Gateway) -> dict[str, int]:
    """Return what is left of each limit, by "scope name limit"."""
    status = (await gate.daemon.ask("GET", "/control/status", admin=True)).json()
    return {
        " ".join((one["scope"], one["name"], one["limit"])): one["left"] for one in status["limits"]
    }


def refused(reply: Reply) -> tuple[int, str, str]:
    """Return status, code and message of a refusal."""
    said = error(reply)
    return reply.status, said["code"], said["message"]
