"""Videos as clients of OpenRouter, vLLM and Google show them, and who sees them."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, BEDROCK, COHERE, GEMINI, OPENAI, RESPONSES

from tollway.providers.canon import Call
from tollway.providers.catalog import KINDS
from tollway.providers.conversation import Conversation
from tollway.providers.dialects.dialect import Asks, Facts
from tollway.providers.dialects.features import features
from tollway.providers.errors import Untranslatable

DATA = "data:video/webm;base64,aGk="
ADDRESS = "https://example.com/watch?v=1"
NOVA = "us.amazon.nova-2-lite-v1:0"


def call(url: object) -> Call:
    """Return a call that shows a video, as OpenRouter's documentation has it."""
    content = [{"type": "video_url", "video_url": url}, {"type": "text", "text": "What?"}]
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    return Call("chat", OPENAI.name, "m", json.dumps(body).encode())


def written(said: Conversation, target: Asks, model: str, kind: str = "") -> list[dict[str, Any]]:
    """Return what the turn holds for a target."""
    quirks = KINDS[kind].quirks if kind else frozenset()
    body = json.loads(target.write_request(said, Facts(model, quirks=quirks)).body)
    (turn,) = body.get("messages") or body["contents"]
    return list(turn.get("content") or turn["parts"])


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ({"url": DATA}, {"inlineData": {"mimeType": "video/webm", "data": "aGk="}}),
        (DATA, {"inlineData": {"mimeType": "video/webm", "data": "aGk="}}),
        ({"url": ADDRESS}, {"fileData": {"mimeType": "video/mp4", "fileUri": ADDRESS}}),
    ],
)
def test_a_video_of_openai_s_clients_is_shown_to_gemini(url: object, part: dict[str, Any]) -> None:
    """It was refused, though Google's models see it."""
    said = OPENAI.read_request(call(url))
    assert said.unread == ()
    assert written(said, GEMINI, "gemini-2.5-flash") == [part, {"text": "What?"}]


def test_nova_sees_the_bytes_alone() -> None:
    """Bedrock fetches nothing."""
    shown = {"video": {"format": "webm", "source": {"bytes": "aGk="}}}
    assert written(OPENAI.read_request(call(DATA)), BEDROCK, NOVA)[0] == shown
    with pytest.raises(Untranslatable, match="no video by a URL"):
        written(OPENAI.read_request(call(ADDRESS)), BEDROCK, NOVA)


@pytest.mark.parametrize("target", [ANTHROPIC, COHERE, RESPONSES], ids=lambda one: one.name)
@pytest.mark.parametrize("url", [DATA, ADDRESS])
def test_who_sees_no_video_is_shown_none(target: Asks, url: str) -> None:
    """Claude took its address for that of a PDF."""
    with pytest.raises(Untranslatable):
        target.write_request(OPENAI.read_request(call(url)), Facts("m"))


@pytest.mark.parametrize("address", [True, False])
def test_a_video_of_google_s_clients_reaches_servers_that_take_one(address: bool) -> None:
    """As a file it is refused there; OpenAI itself has no other part for it."""
    data = {"inlineData": {"mimeType": "video/webm", "data": "aGk=", "displayName": "a.webm"}}
    at = {"fileData": {"mimeType": "video/webm", "fileUri": ADDRESS, "displayName": "a.webm"}}
    parts = [at if address else data, {"text": "What?"}]
    body = json.dumps({"contents": [{"role": "user", "parts": parts}]}).encode()
    said = GEMINI.read_request(Call("chat", GEMINI.name, "m", body))
    for kind in ("vllm", "openrouter"):
        assert written(said, OPENAI, "m", kind) == [
            {"type": "text", "text": "a.webm"},
            {"type": "video_url", "video_url": {"url": ADDRESS if address else DATA}},
            {"type": "text", "text": "What?"},
        ]
    if not address:
        assert written(said, OPENAI, "m", "openai")[0]["type"] == "file"


def test_a_route_knows_a_video_for_a_file() -> None:
    """Its bytes were counted as if they were words."""
    one = features(call("data:video/mp4;base64," + "A" * 100_000))
    assert one.files and one.tokens < 1_000
