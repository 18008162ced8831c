"""`tollway run` over restarts: every call has the run's tags and budget, and none is refused."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from gateway import WHOLE, whole
from program import Home
from shell import PATIENCE_S, until
from upstreams import reads, says, upstream

from tollway.daemon.ledger.verify import verify

pytestmark = pytest.mark.whole

ANSWERS = [reads(), says(whole(WHOLE, "Connection: close"))]
COST = 7 * 1000 + 3 * 2000
# Two callers at once, each call on a connection of its own, until a file is there or one fails.
CALLS = """
import json, os, sys, threading, urllib.error, urllib.request
asked = {"model": "up/m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}
codes = []
def call():
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    headers = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    headers["content-type"] = "application/json"
    request = urllib.request.Request(url, json.dumps(asked).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            answer.read()
            return ""
    except urllib.error.HTTPError as error:
        return json.load(error)["error"]["code"]
def calls():
    while not os.path.exists(sys.argv[1]):
        codes.append(call())
        if codes[-1]:
            break
        os.write(1, b"called\\n")
callers = [threading.Thread(target=calls) for _ in range(2)]
[one.start() for one in callers]
[one.join() for one in callers]
print("ended", *filter(None, codes))
"""
KEYS = """
[groups.all]
models = ["*"]
[users.ann]
groups = ["all"]
[keys.laptop]
hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
user = "ann"
"""
MODES = {"single user": ("true", ""), "keys": ("false", KEYS)}


def text(port: int, mode: str) -> str:
    """Return a configuration with one provider, of a single user or with keys."""
    single_user, more = MODES[mode]
    return f"""[server]
listen = "127.0.0.1:0"
single_user = {single_user}
watch = false
drain = "20s"
[providers.up]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
[prices."up/m"]
input = 1
output = 2
{more}"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Return a home; whatever was started in it is stopped."""
    made = Home(tmp_path)
    yield made
    made.tollway("down", "--now")


class Loop:
    """A program of `tollway run` that calls without end; `made` counts its answered calls."""

    def __init__(self, process: asyncio.subprocess.Process, stop: Path) -> None:
        self._process = process
        self._stop = stop
        self._reading = asyncio.create_task(self._read())
        self.made = 0
        self.last = ""

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.made += line == b"called\n"
            self.last = line.decode()

    async def more(self) -> None:
        """Return when twenty more calls were answered."""
        least = self.made + 20
        await until(lambda: self.made >= least or self._reading.done())

    async def end(self) -> str:
        """Let it end; return what `tollway run` says of it."""
        self._stop.touch()
        assert self._process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            said = (await self._process.stderr.read()).decode()
            await self._reading
            assert await self._process.wait() == 0, said
        return said


@asynccontextmanager
async def looping(home: Home, budget: str) -> AsyncIterator[Loop]:
    """Yield such a program, which runs; it is killed in the end."""
    stop = home.path / "stop"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tollway.cli", "run", "--budget", budget),
        *("--", sys.executable, "-c", CALLS, str(stop)),
        cwd=home.path,
        env=home.env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Loop(process, stop)
    finally:
        stop.touch()
        if process.returncode is None:
            process.kill()
            await process.wait()


def rows(home: Home) -> list[tuple[str, int]]:
    """Return the tags and the cost of every call in the ledger."""
    with closing(sqlite3.connect(f"file:{home.data / 'ledger.db'}?mode=ro", uri=True)) as db:
        return db.execute("SELECT tags, cost_nanousd FROM calls_readable").fetchall()


async def restart(home: Home) -> None:
    """Have the next daemon serve."""
    ended = await asyncio.to_thread(home.tollway, "restart", "--json")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("mode", MODES)
async def test_a_run_goes_on_over_restarts_as_if_there_were_none(home: Home, mode: str) -> None:
    """The next daemon is told of it before it answers: no call without tags, none refused."""
    async with upstream(ANSWERS) as provider:
        home.write(text(provider.port, mode))
        async with looping(home, "1") as loop:
            await loop.more()
            for _ in range(4):
                await restart(home)
                await loop.more()
            said = await loop.end()
    assert loop.last == "ended\n"
    found = rows(home)
    assert len(found) == loop.made
    assert {json.loads(tags or "{}").get("run", "") for tags, _ in found} == {
        said.partition("tollway: run ")[2].split(" ")[0]
    }
    assert f" · {loop.made:,} calls · " in said
    home.tollway("down")
    assert verify(home.data / "ledger.db") == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_run_s_budget_is_one_over_restarts(home: Home, mode: str) -> None:
    """What was spent before a restart is spent after it; the end says that there is no more."""
    cap = 260 * COST
    async with upstream(ANSWERS) as provider:
        home.write(text(provider.port, mode))
        async with looping(home, f"{cap / 1e9:.9f}") as loop:
            while not loop.last.startswith("ended"):
                await loop.more()
                await restart(home)
            said = await loop.end()
    assert set(loop.last.split()) == {"ended", "insufficient_quota"}
    found = rows(home)
    assert cap // 2 < sum(cost for _, cost in found) <= cap
    assert all('"run":"' in tags for tags, _ in found)
    assert "budget reached: " in said


async def test_a_run_goes_on_where_a_daemon_begins_anew(home: Home) -> None:
    """A daemon of a terminal is the same process afterwards, and knows its runs."""
    async with upstream(ANSWERS) as provider:
        home.write(text(provider.port, "single user"))
        with subprocess.Popen(  # noqa: ASYNC220 - it takes a moment
            [sys.executable, "-m", "tollway.cli", "serve"],
            env=home.env,
            cwd=home.path,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        ) as serving:
            try:
                await until(lambda: home.tollway("status").returncode == 0)
                async with looping(home, "1") as loop:
                    await loop.more()
                    for _ in range(3):
                        await restart(home)
                        await loop.more()
                    await loop.end()
                assert loop.last == "ended\n"
                assert len(rows(home)) == loop.made
                assert all('"run":"' in tags for tags, _ in rows(home))
            finally:
                serving.terminate()
