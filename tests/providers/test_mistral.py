"""What Mistral takes where OpenAI has another shape: files, sounds, thoughts, sampling."""

import json
from typing import Any

import pytest
from translated import (
    ANTHROPIC,
    CODECS,
    GEMINI,
    OPENAI,
    client_call,
    events,
    fold_of,
    no_request,
)

from tollway.providers.canon import Call
from tollway.providers.catalog import KINDS
from tollway.providers.conversation import Audio, Conversation, Source, Text, Thinking
from tollway.providers.dialects.dialect import Codec, Edits, Facts
from tollway.providers.dialects.echoes import To, without_echoes
from tollway.providers.dialects.openai_request import edited, peek
from tollway.providers.events import Answer

PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
QUIRKS = KINDS["mistral"].quirks
PDF_URL = "data:application/pdf;base64,JVBERi0="
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


SIGNED: dict[str, Any] = {
    "type": "thinking",
    "thinking": [{"type": "text", "text": "Look it up"}],
    "signature": "c2lnbmVk",
    "closed": True,
}
TEXT = {"type": "text", "text": "So"}


def answer_of(content: list[dict[str, Any]]) -> Answer:
    """Return an answer of Mistral's that came whole."""
    said = {"id": "a", "model": "m", "choices": [{"message": {"content": content}}]}
    return OPENAI.events(no_request(OPENAI), QUIRKS).whole(json.dumps(said).encode())


def streamed(pieces: list[dict[str, Any]]) -> Answer:
    """Return an answer of Mistral's whose content came in pieces."""
    deltas = [{"choices": [{"index": 0, "delta": {"content": [one]}}]} for one in pieces]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    chunks = [b"data: %b\n\n" % json.dumps(one).encode() for one in (*deltas, end)]
    return fold_of(events(OPENAI, no_request(OPENAI), QUIRKS, *chunks))


def given_back(client: Codec, answer: Answer) -> Conversation:
    """Return the next call of a client that was told an answer, as it has it."""
    whole = json.loads(client.writer(client_call(client, stream=False)).whole(answer))
    hello = {"role": "user", "content": "Hi"}
    match client.name:
        case "anthropic_messages":
            turn = {"role": "assistant", "content": whole["content"]}
            return read(client, max_tokens=9, messages=[hello, turn, hello])
        case "openai_chat":
            return read(client, messages=[hello, whole["choices"][0]["message"], hello])
        case "openai_responses":
            return read(client, input=[hello, *whole["output"], hello])
        case _:
            user = {"role": "user", "parts": [{"text": "Hi"}]}
            return read(client, contents=[user, whole["candidates"][0]["content"], user])


@pytest.mark.parametrize("client", CODECS.values(), ids=CODECS)
def test_a_signed_thought_comes_back_signed(client: Codec) -> None:
    """Its model knows the thought again by the signature; each client gives it back as it can."""
    pieces = [{**SIGNED, "signature": None}, {**SIGNED, "thinking": []}, TEXT]
    for answer in (answer_of([SIGNED, TEXT]), streamed(pieces)):
        body, dropped = asked(given_back(client, answer))
        assert body["messages"][1]["content"] == [SIGNED, TEXT]
        assert "thinking" not in dropped


def test_a_signature_behind_a_text_is_of_a_thought_without_a_word() -> None:
    """It was the text's, whose place for one Anthropic's streams do not have: it was lost there."""
    pieces = [TEXT, {**SIGNED, "thinking": []}]
    parts = streamed(pieces).choices[0].parts
    assert parts == answer_of(pieces).choices[0].parts
    assert parts == (Text("So"), Thinking("", "c2lnbmVk", by="mistral"))


def test_each_signature_stands_beside_its_own_thought() -> None:
    """What another provider signed is told as a thought, without a proof that is none there."""
    own = [{**SIGNED, "signature": name} for name in ("one", "two")]
    plain = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}], "closed": True}
    turn = {"role": "assistant", "content": [*own, plain, TEXT]}
    hello = {"role": "user", "content": "Hi"}
    body, _ = asked(read(OPENAI, messages=[hello, turn, hello]))
    assert body["messages"][1]["content"] == [*own, plain, TEXT]
    claudes = {"role": "assistant", "content": [{**THOUGHT, "signature": "c2ln"}, TEXT]}
    body, _ = asked(read(ANTHROPIC, max_tokens=9, messages=[hello, claudes, hello]))
    unsigned = {name: said for name, said in SIGNED.items() if name != "signature"}
    assert body["messages"][1]["content"] == [unsigned, TEXT]


@pytest.mark.parametrize(
    ("openais", "its"),
    [
        (
            {"type": "file", "file": {"file_data": PDF_URL, "filename": "a.pdf"}},
            {"type": "document_url", "document_url": PDF_URL, "document_name": "a.pdf"},
        ),
        ({"type": "file", "file": {"file_id": "f-1"}}, {"type": "file", "file_id": "f-1"}),
        (
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
            {"type": "input_audio", "input_audio": "UklGRg=="},
        ),
    ],
    ids=["file", "stored file", "sound"],
)
def test_parts_of_openais_clients_are_its_own(openais: dict[str, Any], its: dict[str, Any]) -> None:
    """OpenAI's library builds them so, and each failed the call (422), passed on or translated."""
    turn = {"role": "user", "content": [{"type": "text", "text": "Hi"}, openais]}
    said = json.dumps({"model": "m", "messages": [turn]}).encode()
    passed, lost = without_echoes(Call("chat", OPENAI.name, "m", said), To("m", quirks=QUIRKS))
    assert json.loads(passed.body)["messages"] == [{**turn, "content": [turn["content"][0], its]}]
    assert lost == ()
    body, _ = asked(read(OPENAI, messages=[turn]))
    assert body["messages"][0]["content"][1] == its
    own = json.dumps({"model": "m", "messages": [{"role": "user", "content": [its]}]}).encode()
    passed, _ = without_echoes(Call("chat", OPENAI.name, "m", own), To("m", quirks=QUIRKS))
    assert passed.body == own
    assert read(OPENAI, messages=[{**turn, "content": [its]}]).messages[0].parts == (
        read(OPENAI, messages=[{**turn, "content": [openais]}]).messages[0].parts
    )


def test_a_seed_has_its_name_there() -> None:
    """`seed` is no field of Mistral's, which refuses all that are none."""
    said = b'{"model":"m","seed":5,"messages":[]}'
    body = edited(peek("chat", said), Edits("mistral-small-latest", quirks=QUIRKS))
    assert json.loads(body) == {"model": "mistral-small-latest", "random_seed": 5, "messages": []}


@pytest.mark.parametrize(
    ("said", "source"),
    [
        ("UklGRg==", Source("base64", "UklGRg==", "audio/wav")),
        ("SUQz", Source("base64", "SUQz", "audio/mp3")),
        ("data:audio/ogg;base64,T2dn", Source("base64", "T2dn", "audio/ogg")),
        ("https://a.example/b.mp3", Source("url", "https://a.example/b.mp3")),
    ],
    ids=["WAV", "MP3", "data URL", "address"],
)
def test_a_sound_in_its_shape_is_read(said: str, source: Source) -> None:
    """A data URL went on as if all of it were base64, which Google refuses."""
    turn = {"role": "user", "content": [{"type": "input_audio", "input_audio": said}]}
    assert read(OPENAI, messages=[turn]).messages[0].parts == (Audio(source),)
