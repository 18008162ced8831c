"""Programs and libraries that people call models with, through Tollway on another dialect.

Each does two turns, the first of which calls a tool that makes a file.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from agents import PATIENCE_S, config, installed, node, python
from brains import Chat, Messages
from gateway import KEY
from shell import Running, running
from upstreams import upstream

from tollway.daemon.ledger.calls import recent

pytestmark = pytest.mark.whole

NOTE = {"text": "hi\n"}
AI_SDK = Path(__file__).parents[1] / "ai_sdk.mjs"
KINDS: dict[str, type[Chat] | type[Messages]] = {"anthropic": Messages, "openai-compatible": Chat}


async def run(home: Path, *command: str | Path, **env: str) -> str:
    """Run a program that knows of nothing else; return what it printed."""
    program = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
    assert program.returncode == 0, err.decode()[-3000:]
    return out.decode()


def check(daemon: Running, home: Path, calls: int) -> None:
    """Check the file that the tool made, and the ledger's rows."""
    assert (home / "hello.txt").read_text() == "hi\n"
    rows = recent(daemon.server.daemon.ledger.path, limit=50)
    assert len(rows) == calls
    for row in rows:
        assert (row.ending, row.key, row.route) == ("answered", "laptop", "smart")
        assert (row.input_total, row.output_total, row.estimated) == (100, 20, False)


@pytest.mark.parametrize(
    ("api", "kind"),
    [
        ("chat", "anthropic"),
        ("responses", "openai-compatible"),
        ("responses", "anthropic"),
        ("messages", "openai-compatible"),
        ("gemini", "anthropic"),
        ("gemini", "openai-compatible"),
    ],
)
async def test_the_vercel_ai_sdk_works_on_other_dialects(
    tmp_path: Path, api: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`generateText` and `streamText` with a tool, by each of its three providers."""
    monkeypatch.setenv("UP_KEY", "sk-upstream")
    brain = KINDS[kind]("note", NOTE)
    async with (
        upstream([brain.answer]) as up,
        running(config(up.port, kind), server="") as daemon,
    ):
        words = (node(), AI_SDK, installed(), f"http://127.0.0.1:{daemon.port}", api)
        told = json.loads(await run(tmp_path, *words, TOLLWAY_KEY=KEY))
        check(daemon, tmp_path, 4)
    for one in told:
        assert one["text"].endswith("It is done.")
        assert (one["finish"], one["steps"]) == ("stop", 2)
        assert (one["usage"]["inputTokens"], one["usage"]["outputTokens"]) == (200, 40)
    assert [bool(asked.get("stream")) for asked in brain.asked] == [False, False, True, True]


async def test_the_vercel_ai_sdk_needs_no_setting_where_answers_are_kept(tmp_path: Path) -> None:
    """Its Responses provider as it comes refers to earlier items by their ids."""
    brain = Chat("note", NOTE)
    async with (
        upstream([brain.answer]) as up,
        running('bodies = "all"\n' + config(up.port, "openai-compatible"), server="") as daemon,
    ):
        words = (node(), AI_SDK, installed(), f"http://127.0.0.1:{daemon.port}", "responses")
        told = json.loads(await run(tmp_path, *words, "stores", TOLLWAY_KEY=KEY))
        check(daemon, tmp_path, 4)
    assert [one["text"].endswith("It is done.") for one in told] == [True, True]


LANGCHAIN = """
import json, sys
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool

@tool
def note(text: str) -> str:
    "Write a text to hello.txt"
    open("hello.txt", "w").write(text)
    return "done"

api, url, key = sys.argv[1:]
if api == "messages":
    from langchain_anthropic import ChatAnthropic
    model = ChatAnthropic(model="smart", base_url=url, api_key=key, max_retries=0)
else:
    from langchain_openai import ChatOpenAI
    model = ChatOpenAI(model="smart", base_url=url + "/v1", api_key=key, max_retries=0,
                       use_responses_api=api == "responses", stream_usage=True)
model = model.bind_tools([note])

def streamed(said):
    pieces = list(model.stream(said))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    return whole

for ask in (model.invoke, streamed):
    said = [HumanMessage("Create hello.txt")]
    used = []
    while True:
        answer = ask(said)
        used.append([answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]])
        said.append(answer)
        if not answer.tool_calls:
            break
        said += [note.invoke(call) for call in answer.tool_calls]
    print(json.dumps({"text": answer.text, "used": used}))
"""


@pytest.mark.parametrize(
    ("api", "kind"),
    [
        ("chat", "anthropic"),
        ("responses", "openai-compatible"),
        ("messages", "openai-compatible"),
    ],
)
async def test_langchain_works_on_other_dialects(
    tmp_path: Path, api: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`invoke` and `stream` with a tool, by `langchain-openai` and `langchain-anthropic`."""
    monkeypatch.setenv("UP_KEY", "sk-upstream")
    brain = KINDS[kind]("note", NOTE)
    async with (
        upstream([brain.answer]) as up,
        running(config(up.port, kind), server="") as daemon,
    ):
        words = (python(), "-c", LANGCHAIN, api, f"http://127.0.0.1:{daemon.port}", KEY)
        quiet = {"LANGSMITH_TRACING": "false"}
        told = [json.loads(line) for line in (await run(tmp_path, *words, **quiet)).splitlines()]
        check(daemon, tmp_path, 4)
    assert len(told) == 2
    for one in told:
        assert one == {"text": "It is done.", "used": [[100, 20], [100, 20]]}


TOOL = """
def note(text: str) -> str:
    "Write a text to hello.txt"
    open("hello.txt", "w").write(text)
    return "done"
"""


@pytest.mark.parametrize("streams", [True, False])
async def test_llm_works_on_an_anthropic_model(
    tmp_path: Path, streams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The `llm` command, told of the route in its `extra-openai-models.yaml`, with a tool."""
    monkeypatch.setenv("UP_KEY", "sk-upstream")
    brain = Messages("note", NOTE)
    async with (
        upstream([brain.answer]) as up,
        running(config(up.port, "anthropic"), server="") as daemon,
    ):
        llm_home(tmp_path, daemon.port)
        more = () if streams else ("--no-stream",)
        words = ("-m", "llm", "-m", "smart", "--functions", TOOL, *more, "Create hello.txt")
        told = await run(tmp_path, python(), *words, LLM_USER_PATH=str(tmp_path))
        assert told.endswith("It is done.\n")
        check(daemon, tmp_path, 2)
    assert [bool(asked.get("stream")) for asked in brain.asked] == [streams] * 2


def llm_home(folder: Path, port: int) -> None:
    """Write what makes a route a model of `llm`."""
    model: dict[str, Any] = {
        **{"model_id": "smart", "model_name": "smart", "api_key_name": "tollway"},
        **{"api_base": f"http://127.0.0.1:{port}/v1", "supports_tools": True},
    }
    (folder / "extra-openai-models.yaml").write_text(json.dumps([model]))
    (folder / "keys.json").write_text(json.dumps({"tollway": KEY}))
