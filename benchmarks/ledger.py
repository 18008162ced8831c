"""What the ledger costs: CPU for each call at load, bytes for each call, time of a report.

    python benchmarks/ledger.py                    300,000 calls, some 40 s
    python benchmarks/ledger.py --calls 10000000   the size that the targets name; 3 GB of disk

The first figure is of real admissions and settlements through the writer, with 32 callers at
once; the CPU is that of all threads. The ledger for the report is made by the writer's own
statements, without waiting for each call, and spread over a year.
"""

import argparse
import asyncio
import gc
import os
import platform
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import uvloop

from tollway.daemon.ledger import calls
from tollway.daemon.ledger.book import Book
from tollway.daemon.ledger.operations import Admit, Operation, Settle
from tollway.daemon.ledger.rows import AttemptEnded, AttemptOpened, CallEnded, CallOpened, Who
from tollway.daemon.ledger.schema import QUARTER_MS, migrate, transaction
from tollway.daemon.ledger.spend import By, report
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.canon import Price, Rate, Usage

PRICE = Price("a" * 16, "benchmark", Rate(Decimal("0.15")), Rate(Decimal("0.6")))
MODELS = ("gpt-4o-mini", "gpt-4o", "claude-sonnet-4-5", "qwen3-32b", "smollm2")
YEAR_MS = 365 * 86_400_000
NOW_MS = 1_800_000_000_000
Rows = tuple[CallOpened, AttemptOpened, CallEnded, AttemptEnded]


def rows(count: int, *, over_ms: int, busy: int = 10) -> Iterator[Rows]:
    """Yield calls like real ones: UUIDs, a provider's usage object, 40 keys with 2 models each.

    In each quarter of an hour `busy` of the keys are in use.
    """
    dice = random.Random(1)  # noqa: S311 - a benchmark
    people = [Who(f"key-{n}", f"user-{n % 20}", f"team-{n % 5}", f"p-{n % 8}") for n in range(40)]
    for number in range(count):
        at_ms = NOW_MS - over_ms + number * over_ms // count
        bits = (at_ms << 80) | (7 << 76) | (dice.getrandbits(12) << 64) | (2 << 62)
        text = f"{bits | dice.getrandbits(62):032x}"
        call_id = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
        came, went = dice.randrange(20, 8000), dice.randrange(5, 1500)
        person = (at_ms // QUARTER_MS * 7 + dice.randrange(busy)) % len(people)
        model = MODELS[(person + dice.randrange(2)) % len(MODELS)]
        raw = (
            f'{{"prompt_tokens":{came},"completion_tokens":{went},"total_tokens":{came + went},'
            '"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
            '"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
            '"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
        )
        cost = came * 150 + went * 600
        yield (
            CallOpened(
                *(call_id, at_ms, people[person], "openai_chat", "chat", model, "fast"),
                stream=True,
                client="OpenAI/Python 3.54.0",
            ),
            AttemptOpened(call_id, 1, "openai", model, at_ms + 1, cost * 3, PRICE),
            CallEnded(call_id, at_ms + 2 * went, "answered", 300),
            AttemptEnded(
                *(call_id, 1, at_ms + 2 * went, "answered", Usage(came, output=went), cost),
                status=200,
                first_ms=299,
                upstream_id=f"chatcmpl-{dice.getrandbits(116):029x}",
                raw_usage=raw,
            ),
        )


async def load(path: Path, given: list[Rows], at_once: int) -> tuple[float, float, int]:
    """Return the CPU seconds and seconds of writing the calls, and the transactions it took."""
    ledger = Ledger(path)
    ledger.start()
    left = iter(given)

    async def caller() -> None:
        for call, attempt, call_end, attempt_end in left:
            await ledger.admit(call, attempt)
            await ledger.settle(call_end, attempt_end)

    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    spent = time.process_time() - cpu, time.perf_counter() - began
    commits = ledger.commits
    await ledger.close()
    return *spent, commits


def generate(path: Path, count: int, busy: int) -> None:
    """Fill a ledger with a year's calls."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = wal")
        db.execute("PRAGMA synchronous = off")
        migrate(db, path)
        book = Book(db)
        group: list[Operation] = []
        done = asyncio.new_event_loop().create_future()  # nobody waits for it
        for call, attempt, call_end, attempt_end in rows(count, over_ms=YEAR_MS, busy=busy):
            group += [Admit(call, attempt, done), Settle(call_end, attempt_end)]
            if len(group) == 64:
                with transaction(db):
                    book.write(group)
                group = []
        with transaction(db):
            book.write(group)


def timed(what: str, path: Path, by: list[By], days: int) -> None:
    """Print how long a report takes, from a file that no cache holds as far as we may say so."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    since = NOW_MS - days * 86_400_000
    began = time.perf_counter()
    found = report(path, by=by, since_ms=since, until_ms=NOW_MS, tz=ZoneInfo("Europe/Berlin"))
    took = (time.perf_counter() - began) * 1000
    print(f"{what:<40}{took:>10.0f} ms   {len(found)} rows")


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--calls", type=int, default=300_000)
    options.add_argument("--busy", type=int, default=10, help="keys in use at a time, of 40")
    options.add_argument("--load", type=int, default=60_000)
    options.add_argument("--at-once", type=int, default=32)
    options.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    wanted = options.parse_args()
    folder = Path(tempfile.mkdtemp(dir=wanted.folder))
    try:
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},")
        print(f"SQLite {sqlite3.sqlite_version}, {folder}\n")
        given = list(rows(wanted.load, over_ms=3_600_000))
        gc.freeze()  # the rows were there before: to look through them is not the ledger's cost
        cpu, took, commits = uvloop.run(load(folder / "load.db", given, wanted.at_once))
        each = cpu / wanted.load * 1e6
        print(f"{'CPU a call, admitted and settled':<40}{each:>10.1f} us   of all threads")
        print(f"{'calls a second, nothing else to do':<40}{wanted.load / took:>10.0f}")
        print(f"{'operations a transaction':<40}{2 * wanted.load / commits:>10.1f}")
        size = (folder / "load.db").stat().st_size / wanted.load
        print(f"{'disk a call, indexes and all':<40}{size:>10.0f} bytes")
        path = folder / "report.db"
        generate(path, wanted.calls, wanted.busy)
        print(
            f"\n{wanted.calls} calls in a year, {path.stat().st_size / wanted.calls:.0f} bytes each"
        )
        timed("spend by team and model, 30 days", path, [By.TEAM, By.MODEL], 30)
        timed("spend by day, 30 days", path, [By.DAY], 30)
        timed("spend by key and model, the year", path, [By.KEY, By.MODEL], 365)
        began = time.perf_counter()
        calls.recent(path, limit=50)
        print(f"{'the latest 50 calls':<40}{(time.perf_counter() - began) * 1000:>10.0f} ms")
        began = time.perf_counter()
        assert verify(path) == []
        print(f"{'verify':<40}{time.perf_counter() - began:>10.1f} s")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
