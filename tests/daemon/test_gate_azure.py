"""Azure's `v1` API, by its recordings: OpenAI's dialects behind another address and header."""

from hashlib import sha256
from typing import Any

import msgspec
import pytest
from gateway import KEY, Gateway, events
from shell import running
from upstreams import answer, reads, says, upstream
from wire.recordings import Recording, recordings

RECORDINGS = [one for one in recordings("azure/*.json") if one.path.startswith("/openai/v1/")]


def config(port: int) -> str:
    """Return a configuration with a resource of Azure's."""
    return f"""
[providers.azure]
kind = "azure"
base_url = "http://127.0.0.1:{port}/openai/v1"
api_key = "env:AZURE_KEY"
[groups.all]
models = ["*"]
[users.ann]
groups = ["all"]
budget = ["1/day"]
[keys.laptop]
hash = "sha256:{sha256(KEY.encode()).hexdigest()}"
user = "ann"
"""


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda one: one.id)
async def test_what_azure_said_arrives_and_is_billed(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the path that was recorded, the key in `api-key` alone, priced as Azure's models are."""
    monkeypatch.setenv("AZURE_KEY", "azure-key")
    kind = "text/event-stream" if recording.streamed else "application/json"
    said = answer(recording.body, f"Content-Type: {kind}", "Connection: close")
    asked: dict[str, Any] = recording.asked | {"model": f"azure/{recording.asked['model']}"}
    async with upstream([reads(), says(said)]) as up, running(config(up.port), server="") as daemon:
        gate = Gateway(daemon, [up])
        path = recording.path.removeprefix("/openai")
        reply = await gate.ask(msgspec.json.encode(asked), path)
        assert reply.status == 200, reply.body
        got = b"".join(events(reply)) if recording.streamed else reply.body
        # The stream's report of usage was asked for by the client that was recorded, too.
        assert got == recording.body
        (request,) = up.requests
        head = request.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")
        assert head[0] == f"post {recording.path} http/1.1"
        assert "api-key: azure-key" in head
        assert not [line for line in head if line.startswith("authorization")]
        row = await gate.row(reply)
        assert row.call.cost_nanousd > 0
        assert (row.call.ending, row.call.estimated) == ("answered", False)
        (attempt,) = row.attempts
        assert attempt.price is not None and attempt.price.source.startswith("genai-prices")
