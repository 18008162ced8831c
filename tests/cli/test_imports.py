"""`import`: the logs of coding agents, each call once, none that passed the gateway."""

import json
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_rows import attempt, closed, ended, opened
from program import Home

from tollway.cli import claude_logs, codex_logs
from tollway.cli.agent_calls import AgentCall, Logs
from tollway.daemon.ledger.imports import Seen, passed
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.canon import Usage

WIRE = Path(__file__).parents[1] / "wire/agents"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TOML = """[server]
listen = "127.0.0.1:0"
single_user = true
budget = ["1/month"]
"""


def stamp(seconds: float) -> str:
    """Return a moment as logs write it."""
    return (NOW + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def claude_line(
    message_id: str, output: int, at: float = 0, request: str = "", **more: Any
) -> dict[str, Any]:
    """Return a line of Claude Code for a part of an answer."""
    usage = {
        "input_tokens": 2,
        "cache_creation_input_tokens": 900,
        "cache_read_input_tokens": 50_000,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 800},
        "output_tokens": output,
        "service_tier": "standard",
        "server_tool_use": {"web_search_requests": 0},
    }
    message = {"id": message_id, "model": "claude-sonnet-4-5", "usage": usage}
    line = {
        "type": "assistant",
        "timestamp": stamp(at),
        "sessionId": "s-1",
        "cwd": "/home/ann/my shop",
        "gitBranch": "fix/one",
        "message": {**message, **more.pop("message", {})},
        **more,
    }
    return {**line, "requestId": request} if request else line


def codex_count(total: int, last: int | None, at: float = 0) -> dict[str, Any]:
    """Return a token_count of Codex, whose tokens are all of one class in a ratio of 10 to 1."""

    def tokens(output: int) -> dict[str, int]:
        return {
            "input_tokens": 10 * output,
            "cached_input_tokens": 4 * output,
            "output_tokens": output,
            "reasoning_output_tokens": output // 2,
            "total_tokens": 11 * output,
        }

    info = {
        "total_token_usage": tokens(total),
        "last_token_usage": None if last is None else tokens(last),
    }
    payload = {"type": "token_count", "info": info, "rate_limits": {}}
    return {"timestamp": stamp(at), "type": "event_msg", "payload": payload}


def codex_meta(name: str, **more: Any) -> dict[str, Any]:
    """Return the first line of a thread of Codex."""
    payload = {"id": name, "cwd": "/home/ann/shop", "git": {"branch": "main"}, **more}
    return {"timestamp": stamp(0), "type": "session_meta", "payload": payload}


TURN = {"timestamp": stamp(0), "type": "turn_context", "payload": {"model": "gpt-5-codex"}}


def write(path: Path, lines: list[dict[str, Any]], broken: str = "") -> None:
    """Write a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + broken)


def silent(done: int, of: int) -> None:
    """Say nothing of how far a reading has come."""


def claude(folder: Path) -> Logs:
    """Return what a folder's logs of Claude Code tell."""
    return claude_logs.read([folder], 0, silent)


def codex(folder: Path) -> Logs:
    """Return what a folder's logs of Codex tell."""
    return codex_logs.read([folder], 0, silent)


def test_a_real_log_of_claude_code_is_read(tmp_path: Path) -> None:
    """Of version 2.1.197, run against a scripted server: one answer's id, told three times."""
    shutil.copy(WIRE / "claude-code-2.1.197.jsonl", tmp_path / "a.jsonl")
    logs = claude(tmp_path)
    (call,) = logs.calls
    assert (logs.files, logs.repeated, logs.unreadable) == (1, 2, 0)
    assert (call.model, call.usage) == ("m", Usage(input=100, output=20))
    assert (call.session, call.branch) == ("27276ec0-c643-4852-aeb5-b4a9324d27d7", "")
    assert (call.response_id, call.folder, call.tier) == ("c1", "/home/ann/work", "standard")
    assert call.provider == "unknown"  # the model is no Claude


def test_a_real_log_of_codex_is_read(tmp_path: Path) -> None:
    """Of version 0.169.0: each answer has a record with its id, and is counted by that alone."""
    shutil.copy(WIRE / "codex-0.169.0.jsonl", tmp_path / "rollout-a.jsonl")
    logs = codex(tmp_path)
    assert [call.usage for call in logs.calls] == [Usage(input=100, output=20)] * 2
    assert all(call.key == call.response_id and call.key.startswith("resp_") for call in logs.calls)
    assert {call.session for call in logs.calls} == {"01a228e0-68cb-7300-a007-45b3f1383020"}
    assert {(call.provider, call.model) for call in logs.calls} == {("tollway", "smart")}


def test_the_fullest_usage_of_an_answer_counts_once(tmp_path: Path) -> None:
    """Parts, snapshots of a stream, a resumed session and a subagent's file tell it again."""
    lines = [
        claude_line("msg_1", 5, 0, "req_1"),
        claude_line("msg_1", 90, 4, "req_1"),
        claude_line("msg_1", 90, 5, "req_1"),
        claude_line("msg_2", 7, 9),  # some versions say no request
        claude_line("msg_2", 30, 10, "req_2"),
    ]
    write(tmp_path / "p/one.jsonl", lines)
    write(tmp_path / "p/two.jsonl", [*lines[:3], claude_line("msg_3", 1, 60, "req_3")])
    write(tmp_path / "p/one/subagents/a.jsonl", [claude_line("msg_4", 3, 70, isSidechain=True)])
    logs = claude(tmp_path)
    assert [(call.key, call.usage.output) for call in logs.calls] == [
        ("msg_1:req_1", 90),
        ("msg_2:req_2", 30),
        ("msg_3:req_3", 1),
        ("msg_4", 3),
    ]
    assert logs.calls[0].usage == Usage(
        input=2, cache_read=50_000, cache_write=100, cache_write_1h=800, output=90
    )
    assert logs.calls[0].at_ms == int(NOW.timestamp() * 1000)
    assert logs.repeated == 6


def test_what_is_no_call_is_not_counted(tmp_path: Path) -> None:
    """Claude Code's own words and errors; lines that cannot be read are told."""
    write(
        tmp_path / "a.jsonl",
        [
            claude_line("msg_1", 5, message={"model": "<synthetic>"}),
            claude_line("msg_2", 5, isApiErrorMessage=True),
            {"type": "user", "message": {"content": 'he said "usage"'}},
            claude_line("", 5),
            claude_line("msg_3", 5, timestamp="yesterday"),
        ],
        broken='{"type": "assistant", "message": {"usage": {"input_tok',
    )
    logs = claude(tmp_path)
    assert (logs.calls, logs.unreadable) == ([], 3)


def test_the_cloud_that_answered_is_told_by_the_id(tmp_path: Path) -> None:
    """Bedrock's and Vertex AI's answers have ids of their own."""
    write(tmp_path / "a.jsonl", [claude_line("msg_bdrk_1", 5), claude_line("msg_vrtx_1", 5, 1)])
    assert [call.provider for call in claude(tmp_path).calls] == ["bedrock", "vertex"]


def test_codex_counts_are_calls_where_the_sum_grew(tmp_path: Path) -> None:
    """One that is written again, or is of limits alone, is none; a lost one is the difference."""
    write(
        tmp_path / "rollout-1.jsonl",
        [
            codex_meta("t-1"),
            TURN,
            {**codex_count(0, 0), "payload": {"type": "token_count", "info": None}},
            codex_count(10, 10, 1),
            codex_count(10, 10, 2),
            codex_count(30, None, 3),
        ],
    )
    logs = codex(tmp_path)
    assert [(call.usage.input, call.usage.cache_read) for call in logs.calls] == [
        *((60, 40), (120, 80))
    ]
    assert [(call.usage.output, call.usage.reasoning) for call in logs.calls] == [(5, 5), (10, 10)]
    assert {(call.provider, call.model, call.branch) for call in logs.calls} == {
        ("openai", "gpt-5-codex", "main")
    }


def test_a_fork_of_codex_counts_its_own_calls_alone(tmp_path: Path) -> None:
    """Its log begins with its parent's counts under new times; siblings' equal sums are two."""
    parent = [codex_meta("t-1"), TURN, codex_count(10, 10, 1), codex_count(30, 20, 2)]
    write(tmp_path / "rollout-1.jsonl", parent)
    for name in ("t-2", "t-3"):
        write(
            tmp_path / f"rollout-{name}.jsonl",
            [
                codex_meta(name, forked_from_id="t-1"),
                codex_meta("t-1"),
                TURN,
                codex_count(10, 10, 500),
                codex_count(30, 20, 500),
                codex_count(45, 15, 520),
            ],
        )
    logs = codex(tmp_path)
    assert [call.usage.output_total for call in logs.calls] == [10, 20, 15, 15]
    assert logs.repeated == 4
    (tmp_path / "rollout-1.jsonl").unlink()
    # Nobody can tell a parent's counts from a fork's own any more: those of one sum are one.
    assert [call.usage.output_total for call in codex(tmp_path).calls] == [10, 20, 15]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 400)), max_size=30), st.randoms())
def test_order_and_copies_of_lines_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[int, int]], order: Any
) -> None:
    """Whatever the order of files and lines: an answer counts once, at its most output."""
    folder = tmp_path_factory.mktemp("logs")
    lines = [
        claude_line(f"msg_{number}", output, at, "req") for at, (number, output) in enumerate(said)
    ]
    order.shuffle(lines)
    write(folder / "a.jsonl", lines)
    write(folder / "b.jsonl", lines[: len(lines) // 2])
    expected: dict[str, int] = {}
    for number, output in said:
        name = f"msg_{number}:req"
        expected[name] = max(output, expected.get(name, 0))
    assert {call.key: call.usage.output for call in claude(folder).calls} == expected


async def ledger_with(path: Path, *calls: dict[str, Any]) -> None:
    """Write calls that passed the gateway: each has an end, tokens, a session and an id."""
    ledger = Ledger(path)
    ledger.start()
    await ledger.ready()
    for number, one in enumerate(calls):
        call = opened(number, one["end"] - 1000, session=one.get("session", ""))
        usage = Usage(input=one["in"], output=one["out"])
        await ledger.admit(call, attempt(call))
        done = ended(attempt(call), usage=usage, upstream_id=one.get("id", ""))
        await ledger.settle(closed(call), done)
    await ledger.close()


def seen(key: str, at: float, came: int, went: int, session: str = "s", answer: str = "") -> Seen:
    """Return a call of a log."""
    return Seen(key, int((NOW.timestamp() + at) * 1000), session, answer, came, went)


async def test_what_passed_the_gateway_is_known(tmp_path: Path) -> None:
    """By the answer's id; else by session, time and tokens, each call of ours for one of theirs."""
    path = tmp_path / "ledger.db"
    end = int(NOW.timestamp() * 1000)
    await ledger_with(
        path,
        {"end": end, "in": 10, "out": 1, "id": "msg_1"},
        {"end": end, "in": 20, "out": 2, "id": "x", "session": "s"},
        {"end": end, "in": 30, "out": 3, "id": "y"},  # before sessions were kept
        {"end": end, "in": 40, "out": 4, "id": "z", "session": "another"},
    )
    found = passed(
        path,
        [
            seen("id", 50 * 60, 99, 99, answer="msg_1"),  # whatever else is said
            seen("session", 100, 20, 2),
            seen("again", 101, 20, 2),  # ours was taken: this one went elsewhere
            seen("unknown", -60, 30, 3, session="t"),
            seen("other", 1, 40, 4),  # of another session
            seen("late", 500, 30, 3),
            seen("nothing", 0, 0, 0),
        ],
    )
    assert found == {"id", "session", "unknown"}


class Box:
    """A home with logs of both agents."""

    def __init__(self, folder: Path, toml: str = TOML) -> None:
        self.home = Home(folder)
        # The first to read price data unpacks them for half a second: once for all tests.
        self.home.env["XDG_CACHE_HOME"] = str(folder.parent / "cache")
        self.home.write(toml)
        self.ledger = self.home.data / "ledger.db"
        self.claude = folder / ".claude/projects/shop/s-1.jsonl"
        now = datetime.now(UTC) - NOW - timedelta(hours=2)
        self.shift = now.total_seconds()
        write(self.claude, [claude_line("msg_1", 5, self.shift, "req_1")])
        write(
            folder / ".codex/sessions/2026/11/20/rollout-1.jsonl",
            [codex_meta("t-1"), TURN, codex_count(10, 10, self.shift + 1)],
        )

    def say(self, *words: str) -> Any:
        """Return what `import` says as JSON, by agent."""
        ended = self.home.tollway("import", "--json", *words)
        assert ended.returncode == 0, ended.stderr
        return {one["source"]: one for one in json.loads(ended.stdout)["agents"]}

    def spent(self, *words: str) -> Any:
        """Return what `spend` says as JSON."""
        ended = self.home.tollway("spend", "--since", "7d", "--json", *words)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)


def test_imports_stand_apart_and_are_not_made_twice(tmp_path: Path) -> None:
    """At the list price, in no cost and no budget; what a log adds later is taken as it comes."""
    box = Box(tmp_path)
    assert box.say("--dry-run")["claude-code"]["new"] == 1
    assert not box.ledger.exists()
    first = box.say()
    # By genai-prices: 3, 0.3, 3.75 and 6 dollars a million in, 15 out.
    worth = 2 * 3000 + 50_000 * 300 + 100 * 3750 + 800 * 6000 + 5 * 15_000
    assert first["claude-code"]["notional_nanousd"] == worth
    again = box.say()
    assert [(one["new"], one["there"]) for one in again.values()] == [(0, 1), (0, 1)]
    data = box.spent("--by", "source,model,tag:project,tag:branch")
    rows = {tuple(row["group"].values()): row for row in data["rows"]}
    mine = rows["claude-code", "claude-sonnet-4-5", "my_shop", "fix/one"]
    assert mine["imported"]["notional_nanousd"] == worth
    assert mine["cost_nanousd"] == mine["calls"] == data["total"]["cost_nanousd"] == 0
    assert rows["codex", "gpt-5-codex", "shop", "main"]["imported"]["output_total"] == 10
    assert data["budgets"][0]["settled_nanousd"] == 0
    write(
        box.claude,
        [
            claude_line("msg_1", 90, box.shift, "req_1"),
            claude_line("msg_2", 1, box.shift + 9, "req_2"),
        ],
    )
    more = box.say("claude-code")["claude-code"]
    assert (more["new"], more["changed"], more["there"]) == (1, 1, 0)
    total = box.spent("--by", "session")["total"]["imported"]
    page = box.home.tollway("spend", "--since", "7d", "--by", "source", "--format", "html").stdout
    assert "Imported: at list prices, not paid here." in page
    assert "<svg" in page
    assert (total["calls"], total["output_total"]) == (3, 101)
    assert verify(box.ledger) == []


async def test_list_prices_are_not_added_to_what_was_paid(tmp_path: Path) -> None:
    """Shares and order are by what was paid, whatever the report is by; else by list prices."""
    box = Box(tmp_path)
    box.say()

    def lines(*words: str) -> list[list[str]]:
        done = box.home.tollway("spend", "--since", "7d", *words)
        assert done.returncode == 0, done.stderr
        return [line.split() for line in done.stdout.splitlines()]

    only = lines("--by", "source")
    assert only[0][1:5] == ["cost", "imported", "of", "imported"]
    assert [line[:2] for line in only[1:3]] == [["claude-code", "-"], ["codex", "-"]]
    assert only[1][3] in {"99%", "100%"}
    ledger = Ledger(box.ledger)
    ledger.start()
    await ledger.ready()
    for number, (model, nanousd) in enumerate((("small", 30_000), ("large", 90_000))):
        call = opened(number, time.time_ns() // 1_000_000)
        tried = attempt(call, model=model)
        await ledger.admit(call, tried)
        await ledger.settle(closed(call), ended(tried, nanousd))
    await ledger.close()
    by_source = lines("--by", "source")
    assert by_source[0][1:5] == ["cost", "imported", "of", "paid"]
    assert [(line[0], line[3]) for line in by_source[2:4]] == [("claude-code", "-"), ("codex", "-")]
    assert by_source[1][2:4] == ["-", "100%"]
    by_model = lines("--by", "model", "--top", "2")
    assert [(line[0], line[3]) for line in by_model[1:3]] == [("large", "75%"), ("small", "25%")]
    assert by_model[3][:2] == ["(2", "others)"]
    assert "-" in by_model[3]
    told = box.home.tollway("spend", "--since", "7d", "--by", "day").stderr
    assert "shares are of what was paid here" in told
    compared = lines("--by", "source", "--as", "anthropic/claude-sonnet-4-5")
    assert compared[2][3] == "-"  # tokens that did not pass here are not priced elsewhere


def test_a_running_daemon_writes_them(tmp_path: Path) -> None:
    """Whoever has the ledger writes it; the result is the same."""
    box = Box(tmp_path)
    assert box.home.tollway("up").returncode == 0
    try:
        assert [one["new"] for one in box.say().values()] == [1, 1]
        assert [one["there"] for one in box.say().values()] == [1, 1]
    finally:
        assert box.home.tollway("down").returncode == 0
    assert verify(box.ledger) == []
    assert [one["there"] for one in box.say().values()] == [1, 1]


async def test_what_passed_is_not_imported(tmp_path: Path) -> None:
    """The same call in the ledger and in the log is one; the table says so."""
    box = Box(tmp_path)
    box.home.data.mkdir(parents=True, mode=0o700)
    end = int((NOW.timestamp() + box.shift) * 1000)
    await ledger_with(box.ledger, {"end": end, "in": 1, "out": 1, "id": "msg_1"})
    shown = box.home.tollway("import")
    lines = {line.split()[0]: line.split()[1:5] for line in shown.stdout.splitlines()}
    assert lines["claude-code"] == ["1", "1", "0", "0"]
    assert lines["codex"] == ["1", "0", "0", "1"]
    assert "no budget counts it" in shown.stderr


def test_a_line_that_is_none_is_told(tmp_path: Path) -> None:
    """An agent that was killed leaves part of a line behind; the others count."""
    box = Box(tmp_path)
    log = next(box.home.path.glob(".claude/projects/**/*.jsonl"))
    log.write_text('{"type":"assistant","message":{"usage":{"in\n' + log.read_text())
    shown = box.home.tollway("import", "claude-code", "--dry-run").stdout
    assert "1 line could not be read" in shown
    assert [one["calls"] for one in box.say("--dry-run").values()] == [1, 1]


def test_since_leaves_out_what_is_older(tmp_path: Path) -> None:
    """The log's time counts, not the file's."""
    box = Box(tmp_path)
    assert [one["calls"] for one in box.say("--since", "1h", "--dry-run").values()] == [0, 0]
    assert [one["calls"] for one in box.say("--since", "3h", "--dry-run").values()] == [1, 1]


TEAM = """[server]
listen = "127.0.0.1:0"
[teams.ml]
groups = ["all"]
[groups.all]
models = ["*"]
[users.ann]
team = "ml"
"""


def test_a_team_says_whose_use_it_is(tmp_path: Path) -> None:
    """Without a user of the file nothing is written; with one it is the team's too."""
    box = Box(tmp_path, TEAM)
    for words, message in (
        ([], "Whose use it is must be said"),
        (["--user", "anne"], "There is no user `anne`; did you mean ann?"),
        (["claude-cod"], "No logs of `claude-cod` can be read; did you mean claude-code?"),
    ):
        ended = box.home.tollway("import", *words)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert message in ended.stderr
    box.say("--user", "ann")
    groups = [tuple(row["group"].values()) for row in box.spent("--by", "team,user")["rows"]]
    assert groups == [("ml", "ann")]


def test_no_logs_are_said(tmp_path: Path) -> None:
    """And where they would be looked for."""
    home = Home(tmp_path)
    home.write(TOML)
    ended = home.tollway("import")
    assert ended.returncode == 0
    assert "There are no logs: $CLAUDE_CONFIG_DIR and $CODEX_HOME" in ended.stderr


def test_other_homes_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that the agents themselves heed."""
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", f"{tmp_path}/a,{tmp_path}/b")
    monkeypatch.setenv("CODEX_HOME", f"{tmp_path}/c")
    assert claude_logs.folders() == [tmp_path / "a/projects", tmp_path / "b/projects"]
    assert codex_logs.folders()[0] == tmp_path / "c/sessions"


def test_a_log_has_each_call_in_the_order_of_time(tmp_path: Path) -> None:
    """So that a run that is stopped in between has the older ones."""
    write(tmp_path / "a.jsonl", [claude_line("msg_b", 1, 9), claude_line("msg_a", 1, 3)])
    found: list[AgentCall] = claude(tmp_path).calls
    assert [call.response_id for call in found] == ["msg_a", "msg_b"]
