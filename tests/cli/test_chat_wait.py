"""`chat` before the first word: what an answer waits for."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from chat_upstream import ChatUpstream
from program import Home
from terminals import terminal

from tollway.cli.chat_wait import Live, reason

CONFIG = """[server]
listen = "127.0.0.1:0"
watch = false
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{port}/v1"
[prices."up/*"]
input = 1
output = 2
[routes.fast]
to = ["up/small"]
"""
# As the daemon tells a call under way, and a line before a provider's slots.
CALL = {"state": "waiting", "asked": "fast", "target": "up/small", "age_s": 3.1}
LINE = {"target": "up", "slots": 1, "running": 1, "waiting": 2}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, ChatUpstream]]:
    """Yield a home with a daemon that is up, and its provider."""
    upstream = ChatUpstream()
    home = Home(tmp_path_factory.mktemp("chat"))
    home.write(CONFIG.format(port=upstream.port))
    try:
        started = home.tollway("up")
        assert started.returncode == 0, started.stderr
        yield home, upstream
    finally:
        upstream.go.set()
        home.tollway("down", "--now")
        upstream.close()


@pytest.mark.parametrize("more", [(), ("--plain",)])
def test_what_an_answer_waits_for_is_told_until_it_begins(
    up: tuple[Home, ChatUpstream], more: tuple[str, ...]
) -> None:
    """On one line, which leaves nothing behind; a person should not wonder whether it hangs."""
    home, upstream = up
    upstream.go.clear()
    command = [sys.executable, "-m", "tollway.cli", "chat", "fast", "hush", *more]
    env = {**home.env, "NO_COLOR": ""}
    with terminal(command, home.path, env, columns=60, rows=12) as seen:
        seen.until(lambda text: text.startswith("Waiting for `up/small` · "))
        upstream.go.set()
        assert seen.ends() == 0
        assert seen.text.startswith("You said: hush\n")
        assert "Waiting" not in seen.text


def test_nothing_is_told_of_waiting_where_nobody_looks(up: tuple[Home, ChatUpstream]) -> None:
    """A pipe gets the answer and its summary alone."""
    home, upstream = up
    upstream.go.set()
    done = home.tollway("chat", "fast", "hush")
    assert (done.stdout, len(done.stderr.splitlines())) == ("You said: hush\n", 1)


def test_an_answer_that_is_not_streamed_is_shown_whole(up: tuple[Home, ChatUpstream]) -> None:
    """Some servers do not stream, whatever they are asked; all of it came."""
    done = up[0].tollway("chat", "fast", "at once")
    assert (done.returncode, done.stdout) == (0, "You said: at once\n")
    assert done.stderr.startswith("up/small · 7 in + 3 out tokens · ")
    said = json.loads(up[0].tollway("chat", "fast", "at once", "--json").stdout)
    assert (said["text"], said["finish_reason"]) == ("You said: at once", "stop")
    assert said["cost_usd"] == "0.000013"


@pytest.mark.parametrize(
    ("live", "said"),
    [
        ({}, "Waiting for `fast`"),
        ({"under_way": [CALL], "queues": [LINE]}, "Waiting for a slot of `up`, 2 in line"),
        ({"under_way": [CALL | {"state": "answering"}]}, "`up/small` is at work"),
        (
            {
                "under_way": [CALL | {"age_s": 90.0}, CALL | {"target": "local/tiny"}],
                "models": [{"name": "tiny", "state": "loading", "percent": 40}],
            },
            "`tiny` is being loaded, 40%",
        ),
    ],
)
def test_the_reason_is_that_of_this_call(live: dict[str, Any], said: str) -> None:
    """Not of another's that asks for the same."""
    assert reason(msgspec.convert(live, Live), "fast", 3.0) == said
