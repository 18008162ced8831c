"""`top`: a terminal is taken over, shows this moment, hears keys, and is given back."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway import HEAD, Gateway, body, chunk, gateway
from hypothesis import given
from hypothesis import strategies as st
from program import Home
from rich.cells import cell_len
from shell import until
from terminals import Terminal, terminal
from upstreams import reads, says, stalls

from tollway.cli.screen import _KEY
from tollway.cli.status import Budget, Model
from tollway.cli.top_data import Call, Gpu, Group, Live, Pace, Speed, Totals, groups
from tollway.cli.top_view import Choices, View, draw
from tollway.daemon import live as told

NOTHING = Totals(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def moment(**fields: Any) -> Live:
    """Return a moment at which nothing happens but what is said."""
    nothing = Live(0.0, "1", "127.0.0.1:4141", 60.0, False, NOTHING)
    return msgspec.structs.replace(nothing, **fields)


def call(number: int, **fields: Any) -> Call:
    """Return a call under way."""
    known: dict[str, Any] = {
        "id": f"01a228cf-5dd8-{number:04}", "state": "answering", "key": "laptop", "user": "ann",
        "team": "ml", "project": "", "asked": "fast", "target": "up/m", "attempts": 1,
        "stream": True, "age_s": 1.0 + number, "first_ms": 5, "output_tokens": number,
        "held_nanousd": 1_000 * number,
    }  # fmt: skip
    return Call(**(known | fields))


@pytest.fixture
async def busy() -> AsyncIterator[Gateway]:
    """Yield a gateway with one stream under way that does not end."""
    script = [reads(), says(HEAD + chunk("Hello there")), stalls()]
    async with gateway([script], more='[routes.fast]\nto = ["up/m"]') as gate:
        asked = asyncio.create_task(gate.ask(body(True, model="fast")))
        live = gate.daemon.server.daemon.exchanges
        await until(lambda: any(one.attempt and one.attempt.first_ms is not None for one in live))
        yield gate
        for one in tuple(gate.daemon.server.daemon.exchanges):
            one.cut("drained")
        await asyncio.gather(asked, return_exceptions=True)


def top(gate: Gateway, *words: str) -> list[str]:
    """Return the command."""
    config = str(gate.daemon.config)
    return [sys.executable, "-m", "tollway.cli", "--config", config, "top", *words]


async def run(gate: Gateway, *words: str) -> tuple[int, str, str]:
    """Run it without a terminal; return exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *top(gate, *words), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_on_a_terminal_it_shows_hears_keys_and_gives_the_terminal_back(
    busy: Gateway,
) -> None:
    """Seen as a person sees it: 80 x 24, then dragged to 60 columns, then left with `q`."""

    def watch() -> None:
        with terminal(top(busy, "-d", "0.2"), busy.daemon.folder, os.environ) as seen:
            text = seen.until(lambda text: "laptop" in text)
            lines = text.splitlines()
            assert lines[0].startswith("tollway ") and "up " in lines[0]
            assert "calls 1 (1 stream)" in text
            assert lines[-1].startswith("q quit  s sort: cost")
            assert seen.is_raw()
            seen.press("s")
            seen.until(lambda text: "sort: tokens" in text)
            seen.press("/nobody")
            seen.until(lambda text: "filter: nobody_" in text and "laptop" not in text)
            seen.press("\x1b")
            seen.until(lambda text: "laptop" in text)
            seen.press("?")
            assert "…" not in seen.until(lambda text: "this help" in text)
            seen.press("?p")
            seen.until(lambda text: "PAUSED" in text)
            seen.press("/lap\r")
            seen.resize(60, 20)
            text = seen.until(lambda text: "filter 'lap'  PAUSED  p go on" in text.splitlines()[-1])
            assert len(text.splitlines()) == 20
            seen.press("q")
            assert seen.ends() == 0
            is_given_back(seen)

    await asyncio.to_thread(watch)


def is_given_back(seen: Terminal) -> None:
    """Assert that a shell could go on."""
    assert not seen.is_raw()
    for left, ended in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h")):
        assert seen.said.rfind(ended) > seen.said.rfind(left) >= 0
    assert b"Traceback" not in seen.said


@pytest.mark.parametrize(("how", "code"), [("\x03", 0), ("term", 128 + signal.SIGTERM)])
async def test_ctrl_c_and_a_signal_leave_the_terminal_as_it_was(
    busy: Gateway, how: str, code: int
) -> None:
    """A terminal left raw, without a cursor, is a window to throw away."""

    def watch() -> None:
        with terminal(top(busy), busy.daemon.folder, os.environ) as seen:
            seen.until(lambda text: "laptop" in text)
            if how == "term":
                seen.process.terminate()
            else:
                seen.press(how)
            assert seen.ends() == code
            is_given_back(seen)

    await asyncio.to_thread(watch)


async def test_what_has_not_changed_is_not_written_again(busy: Gateway) -> None:
    """Nothing flickers that is not touched: the column titles are written once."""

    def watch() -> None:
        with terminal(top(busy, "-d", "0.2"), busy.daemon.folder, os.environ) as seen:
            seen.until(lambda text: "laptop" in text)
            for key, state in (("s", "tokens"), ("s", "calls"), ("s", "name"), ("s", "cost")):
                seen.press(key)
                seen.until(re.compile(f"sort: {state}").search)
            assert seen.said.count(b"out/min") == 2  # of teams, and of models
            assert seen.said.count(b"\x1b[2J") == 1

    await asyncio.to_thread(watch)


async def test_a_daemon_that_goes_away_is_said_and_waited_for(busy: Gateway) -> None:
    """The last moment stays to be read; a restart is seen without starting anew."""

    def watch() -> None:
        path = busy.daemon.socket
        aside = path.with_name("aside")
        with terminal(top(busy, "-d", "0.2"), busy.daemon.folder, os.environ) as seen:
            seen.until(lambda text: "laptop" in text)
            path.rename(aside)
            text = seen.until(lambda text: "No daemon answers" in text)
            assert "laptop" in text
            aside.rename(path)
            seen.until(lambda text: "No daemon answers" not in text)

    await asyncio.to_thread(watch)


async def test_for_scripts_it_prints_one_moment_as_text_or_json(busy: Gateway) -> None:
    """Piped, it needs no `--once`; the JSON is the daemon's own, and what `status` says too."""
    code, text, err = await run(busy)
    assert (code, err) == (0, "")
    assert "laptop" in text and "up/m" in text and "\x1b" not in text and "q quit" not in text
    code, text, _ = await run(busy, "--once", "--json")
    now = msgspec.json.decode(text.encode(), type=told.Live)
    assert code == 0
    assert [one.target for one in now.under_way] == ["up/m"]
    assert now.under_way[0].output_tokens == len("Hello there") // 4
    status = (await busy.daemon.ask("GET", "/control/status", admin=True)).json()
    assert status["calls"]["active"] == now.calls.active == now.calls.streams == 1
    assert json.loads(text)["calls"]["held_nanousd"] == busy.held()


async def test_the_moment_is_told_to_the_owner_alone(busy: Gateway) -> None:
    """It names who calls."""
    assert (await busy.daemon.ask("GET", "/control/live")).status == 404


def test_a_daemon_that_is_not_there_is_an_error_before_anything_is_drawn(tmp_path: Path) -> None:
    """3, as for every command that needs it."""
    home = Home(tmp_path)
    home.write('[server]\nlisten = "127.0.0.1:0"\nsingle_user = true\n')
    done = home.tollway("top")
    assert (done.returncode, done.stdout) == (3, "")


# --- drawing ------------------------------------------------------------------------------------

NAMES = st.text(max_size=40)
MOMENTS = st.builds(
    moment,
    calls=st.builds(Totals, *[st.integers(0, 10**12)] * 10),
    under_way=st.lists(
        st.builds(call, st.integers(0, 10**9), key=NAMES, team=NAMES, target=NAMES, asked=NAMES),
        max_size=40,
    ),
    more=st.integers(0, 3),
    pace=st.lists(st.builds(Pace, NAMES, NAMES, *[st.integers(0, 10**12)] * 4), max_size=20),
    gpus=st.lists(
        st.builds(
            Gpu,
            st.integers(0, 9),
            NAMES,
            st.integers(0, 10**11),
            st.integers(0, 10**11),
            st.none() | st.integers(0, 100),
            st.none() | st.floats(0, 700),
        ),
        max_size=9,
    ),
    problems=st.lists(NAMES.filter(str.strip), max_size=3),
)


@given(MOMENTS, st.integers(24, 200), st.integers(6, 60), st.sampled_from("srp?h"), st.booleans())
def test_whatever_happens_fits_the_terminal(
    now: Live, width: int, height: int, key: str, blocks: bool
) -> None:
    """No line wraps and none is below the last; no name acts on the terminal."""
    choices = Choices()
    choices.press(key)
    lines = draw(now, 1.0, choices, View(width, height, blocks=blocks), "trouble")
    assert len(lines) <= height or choices.help
    for line in lines:
        assert cell_len(line) < width
        assert "\x1b" not in line and "\n" not in line


def test_gpus_and_local_models_have_a_line_each() -> None:
    """Memory, load, power; state, slots, who waits, speed."""
    now = moment(
        gpus=[Gpu(0, "RTX", 12 * 2**30, 24 * 2**30, 87, 312.4)],
        models=[
            Model("smol", "ready", 105 * 2**20, running=3, waiting=1, tokens_per_s=88.2),
            Model("cold", "registered"),
        ],
        slots={"smol": 8},
    )
    text = "\n".join(draw(now, 0, Choices(), View(100, 24, blocks=False)))
    assert "GPU 0 [#####     ]  12 GiB of 24 GiB  87 % busy  312 W  RTX" in text
    assert "local/smol ready  [###     ] 3 of 8 slots  1 waiting  105 MiB  88 tokens/s" in text
    assert "cold" not in text


def test_the_fullest_budget_and_the_spending_stand_above() -> None:
    """What a person looks for first."""
    budget = Budget("team", "ml", "10/day", 10**10, 8 * 10**9, 10**9, 10**9, 0)
    calls = msgspec.structs.replace(NOTHING, nanousd_a_minute=310_000_000)
    text = "\n".join(draw(moment(calls=calls, budgets=[budget]), 0, Choices(), View(80, 24)))
    assert "$0.31/min" in text
    assert "team ml 10/day 90% used" in text


def test_sorting_and_filtering_choose_rows() -> None:
    """By money held, tokens, age or name; what is typed is looked for in every name."""
    now = moment(
        under_way=[
            call(1, key="zoe", output_tokens=9),
            call(2, key="amy", team="web"),
            call(3, key="joe"),
        ]
    )

    def order(choices: Choices) -> list[str]:
        lines = draw(now, 0, choices, View(80, 40))
        return [line.split()[0] for line in lines if line.startswith(("zoe", "amy", "joe"))]

    choices = Choices()
    assert order(choices) == ["joe", "amy", "zoe"]
    choices.press("s")
    assert order(choices) == ["zoe", "joe", "amy"]
    choices.press("s")
    choices.press("s")
    assert order(choices) == ["amy", "joe", "zoe"]
    choices.press("r")
    assert order(choices) == ["zoe", "joe", "amy"]
    for key in "/WEBx\x7f\r":
        choices.press(key)
    assert order(choices) == ["amy"]
    choices.press("\x1b")
    assert len(order(choices)) == 3
    assert not choices.press("q")


def test_groups_add_the_minute_to_what_is_under_way() -> None:
    """A team without calls now is there for its minute, one without a minute for its calls."""
    now = moment(
        pace=[Pace("ml", "up/m", 2, 10, 5, 7), Pace("ml", "up/n", 1, 1, 1, 1)],
        under_way=[call(1, team="web", state="waiting", target="", asked="fast")],
    )
    assert groups(now, "team") == [Group("ml", 0, 0, 3, 11, 6, 8), Group("web", 1, 1)]
    assert {one.name for one in groups(now, "target")} == {"up/m", "up/n", "fast"}


def test_the_speed_is_of_the_last_moments_and_begins_with_the_last_minutes() -> None:
    """A counter that goes back is another daemon's, or an estimate that was too high."""
    speed = Speed()

    def at(second: float, tokens: int) -> float:
        calls = msgspec.structs.replace(NOTHING, output_tokens=tokens, output_a_minute=600)
        now = msgspec.structs.replace(moment(calls=calls), at=second)
        speed.add(now)
        return speed.of(now)

    assert at(0, 100) == 10
    assert at(1, 150) == 50
    assert at(2, 250) == 75
    assert at(3, 10) == 10


def test_a_key_that_sends_several_characters_is_one() -> None:
    """An arrow is not Esc and two letters."""
    assert _KEY.findall("q\x1b[Aa\x1bOP\x1b[5~\x1bé") == [
        "q", "\x1b[A", "a", "\x1bOP", "\x1b[5~", "\x1b", "é",
    ]  # fmt: skip
