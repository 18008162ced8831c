"""The coding agents that tests run, and a gateway for them to talk to."""

import asyncio
import json
import os
from hashlib import sha256
from pathlib import Path

import pytest
from gateway import KEY
from needed import needed
from upstreams import Peer

PINNED = Path(__file__).parents[1] / ".ci/agents"
PATIENCE_S = 120


def installed() -> Path:
    """Return the folder of the installed agents and client libraries, or skip; CI has them."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("TOLLWAY_AGENTS") or Path(cache) / "tollway/agents")
    locks = [PINNED / name for name in ("package-lock.json", "requirements.lock")]
    key = sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()[:16]
    found = folder / key
    if not found.is_dir():
        assert not os.environ.get("CI"), "CI must have the agents"
        pytest.skip("the agents are not installed: run .ci/agents/install")
    return found


def claude() -> Path:
    """Return Claude Code's program for this machine."""
    (found,) = installed().glob("node_modules/@anthropic-ai/claude-code-linux-*/claude")
    return found


def codex() -> Path:
    """Return Codex's program for this machine."""
    (found,) = installed().glob("node_modules/@openai/codex-linux-*/vendor/*/bin/codex")
    return found


def gemini(home: Path, **settings: object) -> Path:
    """Return Gemini CLI's program; in `home` it is told to send nothing to anyone."""
    node()  # runs it
    folder = home / ".gemini"
    folder.mkdir()
    quiet: dict[str, object] = {
        "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        # It would be fetched.
        "tools": {"useRipgrep": False},
    }
    (folder / "settings.json").write_text(json.dumps(quiet | settings))
    return installed() / "node_modules/.bin/gemini"


def node() -> str:
    """Return Node's program, or skip; npm, which CI has, comes with it."""
    return needed("node", package="nodejs")


def python() -> Path:
    """Return the Python that has `llm` and LangChain, apart from ours."""
    return installed() / "python/bin/python"


def config(port: int, kind: str) -> str:
    """Return a configuration whose route `smart` leads to an upstream of a kind."""
    base = f'base_url = "http://127.0.0.1:{port}/v1"'
    return f"""
[providers.up]
kind = "{kind}"
{'api_key = "env:UP_KEY"' if kind == "anthropic" else ""}
{base}
[prices."up/*"]
input = 1
output = 2
[routes.smart]
to = ["up/m"]
[groups.all]
models = ["smart"]
[users.ann]
groups = ["all"]
budget = ["1/day"]
[keys.laptop]
hash = "sha256:{sha256(KEY.encode()).hexdigest()}"
user = "ann"
"""


async def refuses(peer: Peer) -> None:
    """Answer a request as OpenAI answers one for a model that there is not."""
    await peer.read_request()
    body = b'{"error":{"message":"no such model","type":"invalid_request_error","code":null}}'
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
    await peer.say(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


async def run(home: Path, *command: str | Path, **env: str) -> str:
    """Run an agent in a folder of its own below a home; return what it said."""
    work = home / "work"
    work.mkdir()
    agent = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=work,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await agent.communicate()
    except TimeoutError:
        agent.kill()
        said, _ = await agent.communicate()
        pytest.fail(f"the agent did not end: {said.decode()[-2000:]}")
    assert agent.returncode == 0, said.decode()[-2000:]
    return said.decode()


def codex_home(home: Path, port: int) -> None:
    """Write the configuration that makes Tollway Codex's provider."""
    folder = home / ".codex"
    folder.mkdir()
    (folder / "config.toml").write_text(f"""
model = "smart"
model_provider = "tollway"
check_for_update_on_startup = false
[analytics]
enabled = false
[model_providers.tollway]
name = "Tollway"
base_url = "http://127.0.0.1:{port}/v1"
wire_api = "responses"
env_key = "TOLLWAY_KEY"
""")
