"""Runs the built-in upstream as a process: `python upstream.py EVENTS EVENTS_PER_S`.

Prints its base URL, then serves until it is ended.
"""

import asyncio
import sys

import uvloop

from tollway.daemon.bench import BuiltInUpstream


async def main() -> None:
    """Serve for ever."""
    events, events_per_s = int(sys.argv[1]), float(sys.argv[2])
    async with BuiltInUpstream(events=events, events_per_s=events_per_s) as upstream:
        print(upstream.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
