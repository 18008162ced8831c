"""What Mistral takes where OpenAI has another shape: files, sounds, thoughts, sampling."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, GEMINI, OPENAI

from tollway.providers.canon import Call
from tollway.providers.catalog import KINDS
from tollway.providers.conversation import Conversation
from tollway.providers.dialects.dialect import Codec, Facts

PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
THOUGHT = {"type": "thinking", "thinking": "Look it up", "signature": ""}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "1"}


def read(codec: Codec, **body: Any) -> Conversation:
    """Return what a client's body says."""
    said = json.dumps({"model": "m", **body}).encode()
    return codec.read_request(Call("chat", codec.name, "m", said))


def asked(said: Conversation, model: str = "magistral-small-latest") -> tuple[dict[str, Any], Any]:
    """Return the body for one of Mistral's models, and what was left out."""
    kind = KINDS["mistral"]
    facts = Facts(
        model,
        quirks=kind.quirks,
        efforts=kind.efforts_of(model),
        refuses=kind.refused_by(model),
    )
    written = OPENAI.write_request(said, facts)
    return json.loads(written.body), written.dropped


@pytest.mark.parametrize(
    ("source", "url"),
    [
        (PDF, "data:application/pdf;base64,JVBERi0="),
        ({"type": "url", "url": "https://a.example/b.pdf"}, "https://a.example/b.pdf"),
    ],
)
def test_a_file_is_a_document(source: dict[str, str], url: str) -> None:
    """OpenAI's `file` is one that was uploaded there, so that each PDF failed the call."""
    document = {"type": "document", "title": "A report", "source": source}
    said = read(ANTHROPIC, max_tokens=9, messages=[{"role": "user", "content": [document]}])
    body, dropped = asked(said)
    (part,) = body["messages"][0]["content"]
    assert part == {"type": "document_url", "document_url": url, "document_name": "A report"}
    assert dropped == ()


def test_a_sound_is_its_base64_alone() -> None:
    """OpenAI's object beside the type of the sound is none that Mistral's reference has."""
    sound = {"inlineData": {"mimeType": "audio/mp3", "data": "SUQz"}}
    body, _ = asked(read(GEMINI, contents=[{"role": "user", "parts": [sound]}]))
    assert body["messages"][0]["content"] == [{"type": "input_audio", "input_audio": "SUQz"}]


def test_thoughts_go_back_to_models_that_think() -> None:
    """As parts of the turn's content, before its words and beside its calls."""
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "So"}, CALL]},
        {"role": "user", "content": [RESULT]},
        {"role": "assistant", "content": [THOUGHT, {**CALL, "id": "toolu_2"}]},
        {"role": "user", "content": [{**RESULT, "tool_use_id": "toolu_2"}]},
    ]
    body, dropped = asked(read(ANTHROPIC, max_tokens=9, messages=turns))
    thought = {
        "type": "thinking",
        "thinking": [{"type": "text", "text": "Look it up"}],
        "closed": True,
    }
    assert body["messages"][1]["content"] == [thought, {"type": "text", "text": "So"}]
    assert body["messages"][3]["content"] == [thought]
    assert [len(body["messages"][at]["tool_calls"]) for at in (1, 3)] == [1, 1]
    assert dropped == ()
    body, dropped = asked(read(ANTHROPIC, max_tokens=9, messages=turns), "codestral-2508")
    assert body["messages"][1]["content"] == "So"
    assert dropped == ("thinking",)


def test_what_it_takes_of_sampling_is_said() -> None:
    """`top_k` is in its reference; what is not fails the whole call."""
    hello = [{"role": "user", "content": "Hi"}]
    body, dropped = asked(read(ANTHROPIC, max_tokens=9, top_k=5, messages=hello))
    assert (body["top_k"], dropped) == (5, ())
    said = read(OPENAI, messages=hello, logit_bias={"5": 1}, min_p=0.5, top_k=5)
    body, dropped = asked(said)
    assert {"logit_bias", "min_p"}.isdisjoint(body)
    assert set(dropped) == {"logit_bias", "min_p"}
