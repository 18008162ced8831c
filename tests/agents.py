"""The coding agents that tests run, and a gateway for them to talk to."""

import os
from hashlib import sha256
from pathlib import Path

import pytest
from gateway import KEY
from upstreams import Peer

PINNED = Path(__file__).parents[1] / ".ci/agents/package-lock.json"
PATIENCE_S = 120


def agents() -> Path:
    """Return the folder of the installed agents, or skip; CI has them."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("TOLLWAY_AGENTS") or Path(cache) / "tollway/agents")
    found = folder / sha256(PINNED.read_bytes()).hexdigest()[:16] / "node_modules"
    if not found.is_dir():
        assert not os.environ.get("CI"), "CI must have the agents"
        pytest.skip("the agents are not installed: run .ci/agents/install")
    return found


def claude() -> Path:
    """Return Claude Code's program for this machine."""
    (found,) = agents().glob("@anthropic-ai/claude-code-linux-*/claude")
    return found


def codex() -> Path:
    """Return Codex's program for this machine."""
    (found,) = agents().glob("@openai/codex-linux-*/vendor/*/bin/codex")
    return found


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
