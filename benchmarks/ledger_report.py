"""A ledger of ten million calls: what it weighs, how long a report takes, what its upkeep costs.

    python benchmarks/ledger_report.py                     10,000,000 calls, some 5 minutes, 6 GB
    python benchmarks/ledger_report.py --calls 1000000     a tenth of both
    python benchmarks/ledger_report.py --labels            every call has tags and a session

The rows are made by SQL in a temporary folder, a year's calls until now, and the roll-ups by the
function that `ledger verify --repair` has. The report is the real command in a process of its
own, on a file that is not in the cache. Then calls are admitted while retention deletes old ones,
and while it does not.
"""

import argparse
import asyncio
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median, quantiles

import uvloop
from ledger import MODELS, PRICE, rows

from tollway.daemon.ledger.derived import rebuild_roll_ups
from tollway.daemon.ledger.names import Names
from tollway.daemon.ledger.retention import Policy, size
from tollway.daemon.ledger.rows import Who
from tollway.daemon.ledger.schema import QUARTER_MS, migrate, transaction
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger

YEAR_MS = 365 * 86_400_000
DAY_MS = 86_400_000
STEP = 200_000
BYTES_A_CALL = 700  # while it is made: the rows, the sorted roll-ups, a margin
RAW = (
    '{"prompt_tokens":1,"completion_tokens":1,"total_tokens":1,'
    '"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
    '"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
    '"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
)
# Forty keys with two models each, ten of them in use in each quarter of an hour. Numbers come from
# the call's own by multiplication, so that they are spread out and yet the same in both tables.
CALLS = """
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :end),
m AS MATERIALIZED (
    SELECT i, :begin + i * :step / 1000 AS at, lower(hex(randomblob(9))) AS r,
        20 + (i * 7919) % 7980 AS came, 5 + (i * 104729) % 1495 AS went
    FROM n
),
p AS MATERIALIZED (
    SELECT *, printf('%012x', at) AS h, ((at / 900000 * 7) + (i * 31) % 10) % 40 AS person FROM m
)
INSERT INTO calls (seq, id, state, account, admitted_ms, total_ms, first_ms, dialect, endpoint,
    requested, stream, client, ending, attempts, hold_nanousd, cost_nanousd, input_tokens,
    output_tokens)
SELECT i, substr(h, 1, 8) || '-' || substr(h, 9) || '-7' || substr(r, 1, 3) || '-8'
    || substr(r, 4, 3) || '-' || substr(r, 7), 0, 1 + person * 5 + (person + i % 2) % 5, at,
    2 * went, 300, :dialect, :endpoint, :requested, 1, :client, :ending, 1,
    3 * (came * 150 + went * 600), came * 150 + went * 600, came, went
FROM p
"""
ATTEMPTS = """
INSERT INTO attempts (call, number, account, price, started_ms, total_ms, first_ms, status, ending,
    hold_nanousd, cost_nanousd, input_tokens, output_tokens, upstream_id, usage_shape,
    usage_numbers)
SELECT seq, 1, account, :price, admitted_ms + 1, total_ms, 299, 200, ending, hold_nanousd,
    cost_nanousd, input_tokens, output_tokens,
    'chatcmpl-' || substr(lower(hex(randomblob(15))), 2), :shape,
    input_tokens || ',' || output_tokens || ',' || (input_tokens + output_tokens) || ',0,0,0,0,0,0'
FROM calls WHERE seq >= :first AND seq < :end
"""


# A session for each key and quarter of an hour, with one of fifty lists of tags: as agents work.
LABELS = """
UPDATE calls SET
    tags = :tags + ((admitted_ms - :begin) / 900000 + (account - 1) / 5) % 50,
    session = :sessions + ((admitted_ms - :begin) / 900000) * 40 + (account - 1) / 5 % 40
WHERE seq >= :first AND seq < :end
"""


def labels(db: sqlite3.Connection, names: Names, begin_ms: int) -> dict[str, int]:
    """Write the words of tags and sessions; return the numbers of the first ones."""
    tags = [
        names.word(f'{{"branch":"b{number % 7}","ticket":"T-{number}"}}') for number in range(50)
    ]
    (last,) = db.execute("SELECT max(id) FROM words").fetchone()
    db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO words (id, word) SELECT ? + i, 'session-' || i FROM n",
        ((YEAR_MS // QUARTER_MS + 1) * 40, last),
    )
    return {"tags": tags[0], "sessions": last + 1, "begin": begin_ms}


def generate(path: Path, count: int, now_ms: int, *, labelled: bool = False) -> None:
    """Fill a ledger with a year's calls until now."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        migrate(db, path)
        db.execute("PRAGMA journal_mode = off")  # nobody minds a crash here
        db.execute("PRAGMA synchronous = off")
        with transaction(db):
            names = Names(db)
            for person in range(40):
                who = Who(
                    f"key-{person}", f"user-{person % 20}", f"team-{person % 5}", f"p-{person % 8}"
                )
                for model in MODELS:
                    names.account(who, "fast", "openai", model)
            shape, _ = names.usage(RAW)
            fixed = {
                "dialect": names.word("openai_chat"),
                "endpoint": names.word("chat"),
                "requested": names.word("fast"),
                "client": names.word("OpenAI/Python 3.54.0"),
                "ending": names.word("answered"),
                "price": names.price(PRICE),
                "shape": shape,
                "begin": now_ms - YEAR_MS,
                "step": YEAR_MS * 1000 // count,
            }
            said = labels(db, names, now_ms - YEAR_MS) if labelled else {}
        for first in range(1, count + 1, STEP):
            end = min(first + STEP, count + 1)
            span = {**fixed, "first": first, "end": end}
            with transaction(db):
                db.execute(CALLS, span)
                db.execute(ATTEMPTS, span)
                if labelled:
                    db.execute(LABELS, {**said, "first": first, "end": end})
            print(f"\r{end - 1:,} calls made", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        with transaction(db):
            rebuild_roll_ups(db)


def cold(path: Path) -> None:
    """Take a file out of the page cache, as far as the kernel lets us."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def report(
    folder: Path, path: Path, *, again: int, by: str = "team,model", since: str = "30d"
) -> tuple[list[float], list[float]]:
    """Return the seconds of `tollway spend` in all, and of its report alone, cold each time."""
    config = folder / "gateway.toml"
    config.write_text(f'[server]\nsingle_user = true\n[ledger]\npath = "{path}"\n')
    config.chmod(0o600)
    words = ["spend", "--by", by, "--since", since]
    command = [sys.executable, "-m", "tollway.cli", "--config", str(config), *words]
    inner = (
        "import time; from pathlib import Path; from zoneinfo import ZoneInfo;"
        "from tollway.daemon.ledger.spend import report;"
        "now = time.time_ns() // 10**6; began = time.perf_counter();"
        f"report(Path({str(path)!r}), by={by.split(',')!r}, since_ms=now - {since[:-1]} * 86400000,"
        "until_ms=now, tz=ZoneInfo('UTC')); print(time.perf_counter() - began)"
    )
    whole, alone = [], []
    for _ in range(again):
        cold(path)
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        whole.append(time.perf_counter() - began)
        cold(path)
        done = subprocess.run([sys.executable, "-c", inner], check=True, capture_output=True)
        alone.append(float(done.stdout))
    return whole, alone


async def admissions(path: Path, policy: Policy | None, seconds: float) -> list[float]:
    """Return how many milliseconds each admission took, 16 callers at once, at 500 a second."""
    ledger = Ledger(path)
    ledger.start()
    await ledger.ready()
    if policy:
        ledger.retain(policy)
    took: list[float] = []
    given = rows(10**9, over_ms=3_600_000)
    until = time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < until:
            call, attempt, call_end, attempt_end = next(given)
            began = time.perf_counter()
            await ledger.admit(call, attempt)
            took.append((time.perf_counter() - began) * 1000)
            await ledger.settle(call_end, attempt_end)
            await asyncio.sleep(16 / 500)

    await asyncio.gather(*(caller() for _ in range(16)))
    await ledger.close()
    return took


def weigh(path: Path) -> tuple[int, int, int]:
    """Return the number of calls, and the bytes in use and free."""
    with closing(sqlite3.connect(path)) as db:
        (count,) = db.execute("SELECT count(*) FROM calls").fetchone()
        now = size(db)
    return count, now.used, now.free


def upkeep(path: Path, seconds: float) -> None:
    """Print what admissions take with and without old rows being deleted beside them."""
    for what, policy in (
        ("without retention", None),
        ("while old calls are deleted", Policy(keep_ms=180 * DAY_MS)),
        ("without retention again", None),
    ):
        before, _, _ = weigh(path)
        took = uvloop.run(admissions(path, policy, seconds))
        after, used, free = weigh(path)
        hundred = quantiles(took, n=1000)
        gone = before + len(took) - after
        print(
            f"admission {what:<30} p50 {median(took):6.2f}  p99 {hundred[989]:6.2f}"
            f"  p99.9 {hundred[998]:6.2f} ms   {len(took)} admitted, {gone / seconds:.0f} deleted"
            f" a second; {used / 2**20:.0f} MiB in use, {free / 2**20:.0f} free"
        )


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--calls", type=int, default=10_000_000)
    options.add_argument("--again", type=int, default=5)
    options.add_argument("--seconds", type=float, default=10.0, help="of each run of admissions")
    options.add_argument("--labels", action="store_true", help="give calls tags and sessions")
    options.add_argument("--verify", action="store_true", help="check the whole ledger too")
    options.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    wanted = options.parse_args()
    folder = Path(tempfile.mkdtemp(dir=wanted.folder))
    try:
        needed = wanted.calls * BYTES_A_CALL
        if shutil.disk_usage(folder).free < needed:
            sys.exit(f"{folder} needs {needed / 1e9:.1f} GB of free disk; see --folder")
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},")
        print(f"SQLite {sqlite3.sqlite_version}, load {os.getloadavg()[0]:.1f}, {folder}\n")
        path = folder / "ledger.db"
        began = time.perf_counter()
        now_ms = time.time_ns() // 1_000_000 // QUARTER_MS * QUARTER_MS
        generate(path, wanted.calls, now_ms, labelled=wanted.labels)
        print(f"{wanted.calls:,} calls made in {time.perf_counter() - began:.0f} s")
        print(f"{path.stat().st_size / wanted.calls:.0f} bytes a call, indexes and sums included")
        asked = [("team,model", "30d"), ("day", "30d"), ("team,month", "365d")]
        asked += [("tag:branch,model", "30d"), ("session", "7d")] if wanted.labels else []
        for by, since in asked:
            whole, alone = report(folder, path, again=wanted.again, by=by, since=since)
            print(f"`spend --by {by} --since {since}`, cold: {_seconds(whole)} in all")
            print(f"of it the report: {_seconds(alone)}")
        if wanted.verify:
            began = time.perf_counter()
            assert verify(path) == []
            print(f"verify: {time.perf_counter() - began:.0f} s")
        upkeep(path, wanted.seconds)
    finally:
        shutil.rmtree(folder)


def _seconds(values: list[float]) -> str:
    return f"{median(values):.2f} s (of {len(values)}, {min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
