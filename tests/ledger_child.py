"""A process that fills a ledger as fast as it can and prints what was acknowledged.

`A ID`: the admission of a call is committed. `N ID`: so is its second attempt. `S ID COST`: so
is its end. It is there to be killed.
"""

import asyncio
import sys
from pathlib import Path

from ledger_rows import attempt, closed, ended, opened

from tollway.daemon.ledger.writer import Ledger


async def main(path: Path, first: int) -> None:
    """Write until killed, eight calls at a time."""
    ledger = Ledger(path)
    ledger.start()
    await asyncio.gather(*(_serve(ledger, first + lane) for lane in range(8)))


async def _serve(ledger: Ledger, number: int) -> None:
    while True:
        call = opened(number)
        last = attempt(call)
        await ledger.admit(call, last)
        print("A", call.id, flush=True)
        if number % 3 == 0:
            before, last = last, attempt(call, 2, provider="groq")
            await ledger.next_attempt(ended(before, 7), last)
            print("N", call.id, flush=True)
        await ledger.settle(closed(call), ended(last, number))
        print("S", call.id, number + (7 if number % 3 == 0 else 0), flush=True)
        number += 8


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
