"""`logs`: the latest calls, the story of one, and those that end while one looks on."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from ledger_rows import AT_MS, PRICE, attempt, call_id, closed, ended, opened, refused
from program import Home
from terminals import terminal

from tollway.cli.call_story import ENDINGS, STATES, cost
from tollway.daemon.ledger import schema
from tollway.daemon.ledger.bodies import Kept, of_call
from tollway.daemon.ledger.calls import one
from tollway.daemon.ledger.rows import Ending, Who
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.canon import Usage

BOB = Who(key="ci", user="bob", team="web")


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    """Return a home with an open ledger; `home.ledger` writes to it."""
    made = Home(tmp_path)
    made.write('[server]\nlisten = "127.0.0.1:0"\nsingle_user = true\n')
    made.data.mkdir(parents=True, mode=0o700)
    yield made


@pytest.fixture
async def ledger(home: Home) -> AsyncIterator[Ledger]:
    """Return the home's ledger, open, with four calls in it."""
    one = Ledger(home.data / "ledger.db")
    one.start()
    await one.ready()
    await settle(one, 1)
    await settle(one, 2, who=BOB)
    fell = opened(3, AT_MS + 3)
    first = attempt(fell, provider="groq", model="llama", price=None)
    second = attempt(fell, 2)
    await one.admit(fell, first)
    broke = ended(first, 0, ending="upstream_timeout", error="upstream_timeout", usage=Usage(9))
    await one.next_attempt(broke, second)
    await one.settle(closed(fell), ended(second, 2_000, usage=Usage(7, output=5, estimated=True)))
    one.refuse(refused(4, AT_MS + 4))
    await one.ready()
    yield one
    await one.close()


async def settle(ledger: Ledger, number: int, **fields: Any) -> None:
    """Write one answered call."""
    call = opened(number, AT_MS + number, **fields)
    await ledger.admit(call, attempt(call))
    await ledger.settle(closed(call), ended(attempt(call)))


def ids(home: Home, *words: str) -> list[str]:
    """Return the ids that `logs --json` prints."""
    done = home.tollway("logs", "--json", *words)
    assert done.returncode == 0, done.stderr
    return [row["id"] for row in json.loads(done.stdout)]


def follow(home: Home, *words: str) -> subprocess.Popen[str]:
    """Start `logs -f`."""
    return subprocess.Popen(
        [sys.executable, "-m", "tollway.cli", "logs", "-f", *words],
        env=home.env,
        cwd=home.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_one_line_a_call_the_latest_last(home: Home, ledger: Ledger) -> None:
    """Who, what, where, how it ended, what it took and cost: for the eye and for grep."""
    done = home.tollway("logs")
    titles, *lines = done.stdout.splitlines()
    assert titles.split()[:6] == ["time", "id", "who", "asked", "target", "ended"]
    assert len(lines) == 4
    assert "laptop  fast   openai/gpt-4o-mini  answered" in lines[0]
    assert " 412  286 " in lines[0]
    assert "~$0.000002" in lines[2]
    assert "insufficient_quota" in lines[3]
    shown = [line.split()[2] for line in lines]
    assert shown == [call_id(number, AT_MS + number)[:18] for number in range(1, 5)]


async def test_a_row_that_stands_for_more_says_for_how_many(home: Home, ledger: Ledger) -> None:
    """Refusals that are many and alike are counted by one; its story says so in words."""
    for number in range(5, 1010):
        ledger.refuse(refused(number, AT_MS + 5, error="rate_limit_exceeded"))
    await ledger.close()
    lines = home.tollway("logs", "-n", "2").stdout.splitlines()
    assert "rate_limit_exceeded " in lines[1]
    assert "rate_limit_exceeded x995 " in lines[2]
    (row,) = json.loads(home.tollway("logs", "-n", "1", "--json").stdout)
    assert row["repeated"] == 994
    story = home.tollway("logs", row["id"]).stdout
    assert "995 calls just like it in one second" in story


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["-n", "2"], [3, 4]),
        (["-n", "0"], []),
        (["--key", "ci"], [2]),
        (["--user", "anna", "--state", "settled"], [1, 3]),
        (["--team", "web"], [2]),
        (["--provider", "openai"], [1, 2, 3]),
        (["--model", "gpt-4o-mini", "-n", "1"], [3]),
        (["--error", "insufficient_quota"], [4]),
        (["--key", "nobody"], []),
        (["--route", "fast", "-n", "1"], [4]),
        (["--project", "nothing"], []),
        (["--status", "ok"], [1, 2, 3]),
        (["--status", "error"], [4]),
        (["--status", "client_left"], []),
        (["--status", "200", "-n", "1"], [3]),
        (["--status", "503"], []),
        (["--tag", "run"], []),
    ],
)
async def test_filters_choose_calls(
    home: Home, ledger: Ledger, words: list[str], numbers: list[int]
) -> None:
    """All that are given must hold; `-n` counts what is left."""
    assert ids(home, *words) == [call_id(number, AT_MS + number) for number in numbers]


async def test_calls_are_chosen_by_a_tag_or_by_its_value(home: Home, ledger: Ledger) -> None:
    """Tags are the caller's own words for what it does; followed calls too are chosen by them."""
    await settle(ledger, 5, tags='{"run":"42","env":"ci"}')
    await settle(ledger, 6, tags='{"run":"43"}')
    five, six = call_id(5, AT_MS + 5), call_id(6, AT_MS + 6)
    assert ids(home, "--tag", "run") == [five, six]
    assert ids(home, "--tag", "run=42") == [five]
    assert ids(home, "--tag", "run=4") == ids(home, "--tag", "ru") == []
    with follow(home, "--json", "-n", "1", "--tag", "run=43", "--status", "ok") as following:
        assert following.stdout
        assert json.loads(following.stdout.readline())["id"] == six
        await settle(ledger, 7)
        await settle(ledger, 8, tags='{"run":"43"}')
        assert json.loads(following.stdout.readline())["id"] == call_id(8, AT_MS + 8)
        following.send_signal(signal.SIGINT)
        following.stdout.read()
    assert following.returncode == 0


async def test_tokens_without_a_price_are_shown_as_unpriced(home: Home, ledger: Ledger) -> None:
    """A cost of nothing would be a claim; nobody knows what they cost."""
    call = opened(5, AT_MS + 5)
    local = attempt(call, provider="local", model="smol", price=None)
    await ledger.admit(call, local)
    await ledger.settle(closed(call), ended(local, 0))
    lines = home.tollway("logs").stdout.splitlines()
    assert [("unpriced" in line) for line in lines[1:]] == [False, False, False, False, True]
    assert "$0.00 " not in lines[-1]
    rows = json.loads(home.tollway("logs", "--json", "-n", "1").stdout)
    assert [row["unpriced"] for row in rows] == [True]


async def test_the_story_of_a_call_tells_every_attempt(home: Home, ledger: Ledger) -> None:
    """Endings in words, money to the last digit, and what had no price is not called free."""
    text = home.tollway("logs", call_id(3, AT_MS + 3)[:18].upper()).stdout
    assert "settled: ended and billed" in text
    assert "attempt 1: groq/llama" in text
    assert "upstream_timeout: the provider was silent for too long" in text
    assert "cost              not known" in text
    assert "none known" in text
    assert "attempt 2: openai/gpt-4o-mini" in text
    assert "$0.15 in, $0.6 out a million tokens (a test)" in text
    assert "$0.000002 (estimated, an upper bound), held before it was sent: $0.000001" in text
    assert "some of it had no price" in text
    data = json.loads(home.tollway("logs", call_id(3, AT_MS + 3), "--json").stdout)
    assert data["call"]["cost_usd"] == "0.000002"
    assert [one["provider"] for one in data["attempts"]] == ["groq", "openai"]
    assert data["attempts"][1]["price"]["id"] == PRICE.id


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["ffff"], 1, "There is no call `ffff`"),
        (["0"], 1, "More than one call begins with `0`"),
        (["--state", "done"], 2, "There is no state `done`"),
        (["0", "-f"], 2, "neither followed nor filtered"),
        (["-n", "-1"], 2, "-n"),
    ],
)
async def test_what_is_not_there_is_said(
    home: Home, ledger: Ledger, words: list[str], code: int, message: str
) -> None:
    """1 for no such call, 2 for what cannot be meant."""
    done = home.tollway("logs", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


async def test_a_call_that_was_killed_in_line_is_not_said_to_be_billed(home: Home) -> None:
    """It was never sent, so nothing of it was held."""
    path = home.data / "ledger.db"
    for queues in (True, False):
        ledger = Ledger(path)
        ledger.start()
        await ledger.ready()
        if queues:
            ledger.queue(opened(9))
        await ledger.close()
    story = home.tollway("logs", call_id(9)).stdout
    assert "killed while it waited; it was never sent" in story
    assert "billed at its hold" not in story


async def test_no_ledger_is_no_error(home: Home) -> None:
    """A fresh box has no calls."""
    done = home.tollway("logs")
    assert (done.returncode, done.stdout) == (0, "")
    assert "No calls yet" in done.stderr
    assert ids(home) == []


@pytest.mark.usefixtures("ledger")
async def test_a_stretch_of_time_has_the_calls_that_were_admitted_in_it(home: Home) -> None:
    """Both ends may be said; moments are this box's, as the table shows them."""

    def called(*numbers: int) -> list[str]:
        return [call_id(number, AT_MS + number) for number in numbers]

    at = [
        datetime.fromtimestamp((AT_MS + number) / 1000).isoformat(timespec="milliseconds")
        for number in range(6)
    ]
    assert ids(home, "--since", at[3]) == called(3, 4)
    assert ids(home, "--until", at[3]) == called(1, 2)
    assert ids(home, "--since", at[2], "--until", at[4]) == called(2, 3)
    assert ids(home, "--since", at[1], "-n", "1") == called(4)
    assert ids(home, "--since", at[5]) == []
    assert home.tollway("logs", "--since", "tomorow").returncode == 2
    empty = home.tollway("logs", "--since", at[4], "--until", at[2])
    assert (empty.returncode, "The period is empty" in empty.stderr) == (2, True)
    assert home.tollway("logs", "-f", "--until", "today").returncode == 2


@pytest.mark.usefixtures("ledger")
async def test_none_asked_for_is_not_none_there(home: Home) -> None:
    """With `-n 0` nothing is shown, and nothing said of what there is."""
    done = home.tollway("logs", "-n", "0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_following_shows_each_call_once_when_it_has_ended(home: Home, ledger: Ledger) -> None:
    """The latest first, then those that end, open ones only then; Ctrl-C ends it with 0."""
    waiting = opened(5, AT_MS + 5, who=BOB)
    await ledger.admit(waiting, attempt(waiting))
    with follow(home, "--json", "--key", "ci") as following:
        assert following.stdout
        assert following.stderr
        assert json.loads(following.stdout.readline())["id"] == call_id(2, AT_MS + 2)
        await settle(ledger, 6)  # another key's
        await ledger.settle(closed(waiting), ended(attempt(waiting)))
        assert json.loads(following.stdout.readline())["id"] == waiting.id
        await settle(ledger, 7, who=BOB)
        assert json.loads(following.stdout.readline())["id"] == call_id(7, AT_MS + 7)
        following.send_signal(signal.SIGINT)
        rest, talk = following.stdout.read(), following.stderr.read()
    assert (following.returncode, rest, talk) == (0, "", "")


async def test_a_call_that_waits_for_its_turn_has_no_cost(ledger: Ledger) -> None:
    """Nor has one that is under way: `$0.00` is what an answer cost."""
    waits, runs = opened(5, AT_MS + 5), opened(6, AT_MS + 6)
    ledger.queue(waits)
    await ledger.admit(runs, attempt(runs))
    rows = [one(ledger.path, call.id).call for call in (waits, runs)]
    assert [(row.state, cost(row)) for row in rows] == [("queued", "-"), ("open", "-")]


async def test_following_ends_when_nobody_reads_any_more(home: Home, ledger: Ledger) -> None:
    """`logs -f | head -1` gives the shell back at once, not with the next call."""
    with follow(home, "-n", "1") as following:
        assert following.stdout
        following.stdout.readline()
        following.stdout.close()
        assert following.wait(timeout=30) == 1


async def test_following_for_people_prints_lines_in_columns(home: Home, ledger: Ledger) -> None:
    """Columns stay where they are, though nobody knows what comes."""
    with follow(home, "-n", "1", "--state", "settled") as following:
        assert following.stdout
        titles, line = following.stdout.readline(), following.stdout.readline()
        assert line.index("fast") == titles.index("asked")
        assert line.rstrip().endswith(" 1.0s")
        following.send_signal(signal.SIGINT)
        following.stdout.read()
    assert following.returncode == 0


async def test_a_status_is_a_provider_s_and_what_was_refused_is_told_apart(
    home: Home, ledger: Ledger
) -> None:
    """The gateway's own 402 has no provider: who looks for it so is told what finds it."""
    said = home.tollway("logs", "--status", "402").stderr
    assert "No such calls; " in said
    assert "`--state refused`" in said


async def test_calls_that_no_table_has_room_for_are_two_lines_each(
    home: Home, ledger: Ledger
) -> None:
    """In 80 columns as `-f` has them; narrower, each is a block, and a pipe has whole lines."""
    seen = home.on_terminal("logs", "-n", "2", columns=80, NO_COLOR="1").stdout.splitlines()
    assert len(seen) == 6
    assert seen[2].index("fast") == seen[0].index("asked")
    assert seen[3].index("answered") == seen[1].index("ended")
    narrow = home.on_terminal("logs", "-n", "2", columns=60, NO_COLOR="1").stdout
    assert "\n  asked " in narrow
    assert len(home.tollway("logs", "-n", "2").stdout.splitlines()) == 3


async def test_following_on_a_narrow_terminal_takes_two_lines_a_call(
    home: Home, ledger: Ledger
) -> None:
    """In 80 columns: who asked what, then how it ended, each where its title stands."""
    command = [sys.executable, "-m", "tollway.cli", "logs", "-f", "-n", "2"]
    with terminal(command, home.path, home.env) as seen:
        text = seen.until(lambda text: "0ms" in text)
    titles, below, *lines = text.splitlines()[:6]
    assert len([line for line in text.splitlines() if line]) == 6
    assert lines[0].index("fast") == titles.index("asked")
    assert lines[1].index("answered") == below.index("ended")
    assert lines[1].endswith("1.0s") and len(lines[1]) == len(below) == 80


def test_every_ending_and_state_has_words() -> None:
    """A new one without words would leave its calls unexplained."""
    assert set(ENDINGS) == set(get_args(Ending))
    assert set(STATES) == set(schema.STATES)


async def test_a_call_shows_what_was_said_where_it_is_kept(home: Home, ledger: Ledger) -> None:
    """How prompt and reply begin, or all of them; a terminal is not written over."""
    asked = '{"messages":[{"role":"user","content":"\\u001b[2J' + "x" * 2000 + 'END"}]}'
    ledger.keep(Kept(call_id(1, AT_MS + 1), AT_MS, asked.encode(), len(asked), b"Hello", 5, str))
    while not of_call(ledger.path, call_id(1, AT_MS + 1)):  # noqa: ASYNC110 - a thread makes it so
        await asyncio.sleep(0.01)
    done = home.tollway("logs", call_id(1, AT_MS + 1))
    assert "request, " in done.stdout
    assert "answer, 5 B\nHello\n" in done.stdout
    assert "END" not in done.stdout
    assert "`--body` shows them" in done.stderr
    assert asked in home.tollway("logs", "--body", call_id(1, AT_MS + 1)).stdout
    data = json.loads(home.tollway("logs", "--json", call_id(1, AT_MS + 1)).stdout)
    assert [(one["kind"], one["size"]) for one in data["bodies"]] == [
        ("request", len(asked)),
        ("answer", 5),
    ]
    assert "text" not in data["bodies"][0]
    data = json.loads(home.tollway("logs", "--json", "--body", call_id(1, AT_MS + 1)).stdout)
    assert data["bodies"][0]["text"] == asked


async def test_a_call_of_which_nothing_is_kept_says_so_when_asked(
    home: Home, ledger: Ledger
) -> None:
    """With `--body` alone: most people keep nothing, and need not be told each time."""
    assert "ledger.bodies" not in home.tollway("logs", call_id(1, AT_MS + 1)).stderr
    assert "`ledger.bodies`" in home.tollway("logs", "--body", call_id(1, AT_MS + 1)).stderr
    assert home.tollway("logs", "--body").returncode == 2
