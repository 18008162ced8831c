"""What `tollway run` says of models before its program starts, and when its calls were refused."""

import asyncio
from pathlib import Path

import pytest
from gateway import KEY, gateway
from run_program import ANSWERS, python, start

from tollway.cli.boundary import UsageProblem
from tollway.cli.control import Control
from tollway.cli.run_models import Models

ROUTES = """
[routes.vectors-embed]
to = ["up/e"]
[routes.smart]
to = ["up/m"]
[routes.other]
to = ["up/n"]
[groups.few]
models = ["smart"]
[users.bob]
groups = ["few"]
[keys.bobs]
hash = "sha256:{hash}"
user = "bob"
""".replace("{hash}", "b" * 64)
SERVES_NONE = "serves = []"
FALLS_SHORT = "none of claude's own models: `tollway run --model smart -- claude`\n"


def agent(folder: Path, name: str, text: str = "echo started") -> str:
    """Write a program of an agent's name; return its path."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def test_an_agent_whose_models_are_not_served_is_told_of_before_it_starts(
    tmp_path: Path,
) -> None:
    """With the models that the run may call, as the key that it goes by, and the whole command."""
    claude = agent(tmp_path / "bin", "claude", "echo started >&2")
    async with gateway(ANSWERS, provider=SERVES_NONE, more=ROUTES) as gate:
        owner = await (await start(gate.daemon, tmp_path, "--", claude)).end()
        bobs = await (await start(gate.daemon, tmp_path, "--as", "bobs", "--", claude)).end()
    assert owner[0] == bobs[0] == 0
    listed = "`vectors-embed`, `smart`, `other`, `up/e`, `up/m`, ..."
    assert f"this run may call {listed} and {FALLS_SHORT}started\n" in owner[2]
    assert f"may call `smart` and {FALLS_SHORT}started\n" in bobs[2]


async def test_nothing_is_said_where_an_agent_may_find_a_model(tmp_path: Path) -> None:
    """Its own, as the provider's kind serves Codex's, or one of which it is told."""
    told = [
        (("codex",), {}),
        (("claude", "--model", "smart"), {}),
        (("claude", "--model=smart"), {}),
        (("codex", "-c", "model=smart"), {}),
        (("claude",), {"ANTHROPIC_MODEL": "smart"}),
        (("copilot",), {"COPILOT_MODEL": "smart"}),
        (("script",), {}),
    ]
    async with gateway(ANSWERS, more=ROUTES) as gate:
        models = Models(Control(gate.daemon.socket), KEY)
        said = [await asyncio.to_thread(models.lacking, words, env) for words, env in told]
        claude = await asyncio.to_thread(models.lacking, ("claude",), {})
        copilot = await asyncio.to_thread(models.lacking, ("copilot",), {})
    assert said == [""] * len(told)
    assert claude.endswith(FALLS_SHORT.strip())
    assert copilot.endswith("a model that it is told of: `tollway run --model smart -- copilot`")


async def test_claude_code_s_mark_of_a_wide_window_is_no_part_of_a_model_s_name(
    tmp_path: Path,
) -> None:
    """It sends the name without it."""
    async with gateway(ANSWERS, more=ROUTES) as gate:
        models = Models(Control(gate.daemon.socket), KEY)
        assert await asyncio.to_thread(models.window, "smart[1m]", "claude") is None
        with pytest.raises(UsageProblem, match="no such model"):
            await asyncio.to_thread(models.window, "smart[1m]", "codex")


async def test_a_model_that_the_run_may_not_call_is_refused_before_the_program_starts(
    tmp_path: Path,
) -> None:
    """Unknown, or not for its key; and no run is left behind."""
    program = agent(tmp_path / "bin", "claude")
    async with gateway(ANSWERS, more=ROUTES) as gate:
        unknown = await (await start(gate.daemon, tmp_path, "--model", "smrt", "--", program)).end()
        words = ("--as", "bobs", "--model", "other", "--", program)
        forbidden = await (await start(gate.daemon, tmp_path, *words)).end()
        assert not gate.daemon.server.daemon.runs
    assert unknown[:2] == forbidden[:2] == (2, "")
    assert "`--model smrt`: this run may call no such model; did you mean smart?\n" in unknown[2]
    assert (
        "hint: It may call `vectors-embed`, `smart`, `other`, `up/e`, `up/m`, ...\n" in (unknown[2])
    )
    assert "`--model other`: this run may call no such model" in forbidden[2]
    assert "hint: It may call `smart`\n" in forbidden[2]


ASKS = """
import json, os, urllib.error, urllib.request
headers = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"],
           "content-type": "application/json"}
asked = json.dumps({"model": "gpt-x", "messages": [{"role": "user", "content": "Hi"}]}).encode()
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
try:
    urllib.request.urlopen(urllib.request.Request(url, asked, headers))
except urllib.error.HTTPError as error:
    print(json.load(error)["error"]["message"])
"""


async def test_a_call_of_no_model_is_told_which_there_are_and_so_is_the_run(
    tmp_path: Path,
) -> None:
    """A script's words may be lost in its log; what the run says at its end is seen."""
    async with gateway(ANSWERS, provider=SERVES_NONE, more=ROUTES) as gate:
        code, out, err = await (await start(gate.daemon, tmp_path, *python(ASKS))).end()
        as_key = await gate.ask(b'{"model":"gpt-x","messages":[{"role":"user","content":"Hi"}]}')
        bobs = await (await start(gate.daemon, tmp_path, "--as", "bobs", *python(ASKS))).end()
    listed = "It may call `vectors-embed`, `smart`, `other`, `up/e`, `up/m`, and more: `GET"
    assert code == 0
    assert listed in out
    assert f"hint: {listed}" in err
    assert listed in as_key.json()["error"]["message"]
    assert KEY not in out
    assert bobs[1].endswith("It may call `smart`\n")


async def test_a_run_without_a_call_is_told_where_one_may_have_gone(tmp_path: Path) -> None:
    """Codex behind a script asks its own provider, and nobody saw it; with `--oss` it always does.

    An agent that is led here and was asked nothing is not spoken of.
    """
    said = []
    async with gateway(ANSWERS) as gate:
        for words in (("agent.sh",), ("codex", "--oss"), ("codex", "-m", "up/m")):
            program = agent(tmp_path / "bin", words[0])
            run = await start(gate.daemon, tmp_path / "work", "--", program, *words[1:])
            said.append((await run.end())[2])
    script, oss, led = said
    assert "under their own names alone (`tollway run -- codex`)" in script
    assert oss.count("with `--oss` Codex asks an Ollama or LM Studio of this box itself") == 2
    assert "hint" not in led and "warning" not in led
