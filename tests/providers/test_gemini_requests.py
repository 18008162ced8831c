"""What Google's clients send, as other providers can read it."""

import json
from base64 import b64encode, urlsafe_b64encode
from typing import Any

import pytest
from google.genai import types
from translated import (
    ANTHROPIC,
    BEDROCK,
    COHERE,
    GEMINI,
    OPENAI,
    RESPONSES,
    client_call,
    no_request,
)

from tollway.providers.canon import Call
from tollway.providers.conversation import (
    Conversation,
    File,
    Image,
    Message,
    Source,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
)
from tollway.providers.dialects.dialect import Asks, Facts
from tollway.providers.dialects.gemini_ask import tool_name
from tollway.providers.dialects.gemini_schema import as_json_schema
from tollway.providers.errors import Untranslatable
from tollway.providers.sse import Event as Sse

BYTES = b"\xfb\xff\xfe Gr\xc3\xb6\xc3\x9fe"
ALL = (ANTHROPIC, OPENAI, RESPONSES, COHERE, BEDROCK)


def read(*parts: dict[str, Any], **more: Any) -> Conversation:
    """Return what a request of one turn says."""
    body = {"contents": [{"role": "user", "parts": list(parts)}], **more}
    return GEMINI.read_request(Call("chat", GEMINI.name, "m", json.dumps(body).encode()))


def written(said: Conversation, target: Asks) -> str:
    """Return the body for a target."""
    facts = Facts("us.anthropic.claude-x" if target is BEDROCK else "m", default_output=4096)
    return target.write_request(said, facts).body.decode()


def inline(kind: str, data: str) -> dict[str, Any]:
    """Return a part with a file in it."""
    return {"inlineData": {"mimeType": kind, "data": data}}


def test_google_s_library_writes_the_base64_of_urls() -> None:
    """What its types make of bytes, which a picture of any size shows."""
    part = types.Part.from_bytes(data=BYTES, mime_type="image/png")
    said = json.loads(part.model_dump_json(exclude_none=True, by_alias=True))
    assert said["inlineData"]["data"] == urlsafe_b64encode(BYTES).decode()


@pytest.mark.parametrize("target", ALL, ids=lambda one: one.name)
def test_a_picture_s_bytes_are_in_the_alphabet_that_all_read(target: Asks) -> None:
    """Providers refused every picture of Google's library as no base64."""
    said = read({"text": "See"}, inline("image/png", urlsafe_b64encode(BYTES).decode()))
    body = written(said, target)
    assert b64encode(BYTES).decode() in body
    result = {"name": "f", "response": {}, "parts": [inline("image/png", "-_8=")]}
    (part,) = read({"functionResponse": result}).messages[0].parts
    assert part.parts[-1].source.value == "+/8="  # type: ignore[union-attr]


@pytest.mark.parametrize("target", [ANTHROPIC, OPENAI, COHERE], ids=lambda one: one.name)
def test_a_text_s_bytes_are_its_words_where_no_such_file_is_taken(target: Asks) -> None:
    """They were refused, or sent as a file that OpenAI's chat completions refuse."""
    data = b64encode("Größe\n".encode()).decode()
    for kind in ("text/plain", "text/markdown", "application/json"):
        body = json.loads(written(read({"text": "See"}, inline(kind, data)), target))
        assert "Größe\\n" in json.dumps(body, ensure_ascii=False)
        assert data not in json.dumps(body)
    with_no_words = read(inline("text/plain", b64encode(b"\xff\xfe").decode()))
    if target is not OPENAI:
        with pytest.raises(Untranslatable):
            written(with_no_words, target)


@pytest.mark.parametrize(
    "uri",
    [
        "gs://bucket/file.pdf",
        "https://generativelanguage.googleapis.com/v1beta/files/abc",
        "https://us-generativelanguage.googleapis.com/v1beta/files/abc",
    ],
)
def test_what_google_keeps_is_refused_as_that(uri: str) -> None:
    """It was sent on as an address, which nobody else may read."""
    for kind in ("image/png", "application/pdf"):
        said = read({"text": "See"}, {"fileData": {"mimeType": kind, "fileUri": uri}})
        for target in ALL:
            with pytest.raises(Untranslatable):
                written(said, target)
    (_, part) = (
        read(
            {"text": "See"},
            {"fileData": {"mimeType": "image/png", "fileUri": "https://a.example/b"}},
        )
        .messages[0]
        .parts
    )
    assert isinstance(part, Image | File)
    assert part.source.kind == "url"


@pytest.mark.parametrize("name", ["cachedContent", "continuation_token"])
def test_what_stands_for_what_was_said_is_refused(name: str) -> None:
    """Another model would begin anew, and Google's library put its answer behind the first."""
    with pytest.raises(Untranslatable, match="is kept at Google"):
        read({"text": "Hi"}, **{name: "dG9rZW4="})


def test_a_mode_that_says_nothing_is_the_usual_one() -> None:
    """As Google's own enumeration begins; it was refused."""
    config = {"functionCallingConfig": {"mode": "MODE_UNSPECIFIED"}}
    assert read({"text": "Hi"}, toolConfig=config).tool_choice == ToolChoice("auto")


def test_null_is_allowed_wherever_a_schema_says_so() -> None:
    """Beside a type, a choice of schemas, or values alone."""
    either = [{"type": "INTEGER"}, {"type": "STRING", "nullable": True}]
    found = as_json_schema({"anyOf": either, "nullable": True})
    assert found == {"anyOf": [{"type": "integer"}, {"type": ["string", "null"]}, {"type": "null"}]}
    assert as_json_schema({"enum": ["a"], "nullable": True}) == {"enum": ["a", None]}


def test_google_s_own_references_are_those_of_json_schema() -> None:
    """They went to other models as words that none of them knows, with types in capitals."""
    pet = {"type": "OBJECT", "properties": {"ref": {"type": "STRING"}}}
    said = {"properties": {"a": {"ref": "#/defs/Pet", "nullable": True}}, "defs": {"Pet": pet}}
    to_pet = {"$ref": "#/$defs/Pet"}
    assert as_json_schema(said) == {
        "properties": {"a": {"anyOf": [to_pet, {"type": "null"}]}},
        "$defs": {"Pet": {"type": "object", "properties": {"ref": {"type": "string"}}}},
    }
    assert as_json_schema({"items": {"ref": "#/defs/Pet"}}) == {"items": to_pet}


def test_what_json_schema_does_not_know_of_google_s_is_left_out_of_a_schema() -> None:
    """Anthropic refuses a schema with a format that it does not know; either spelling is read."""
    said = {
        "type": "OBJECT",
        "property_ordering": ["a", "b"],
        "properties": {
            "a_b": {"type": "STRING", "format": "enum", "enum": ["x"], "min_length": "2"},
            "b": {"any_of": [{"type": "INTEGER", "format": "int32"}, {"type": "NUMBER"}]},
            "c": {"type": "STRING", "format": "date-time"},
        },
        "additional_properties": {"type": "STRING", "max_length": "9"},
    }
    assert as_json_schema(said) == {
        "type": "object",
        "properties": {
            "a_b": {"type": "string", "enum": ["x"], "minLength": 2},
            "b": {"anyOf": [{"type": "integer"}, {"type": "number"}]},
            "c": {"type": "string", "format": "date-time"},
        },
        "additionalProperties": {"type": "string", "maxLength": 9},
    }


@pytest.mark.parametrize(
    ("model", "signed"),
    [
        ("gemini-3-pro-preview", True),
        ("gemini-3.5-flash", True),
        ("gemini-pro-latest", True),
        ("gemini-flash-lite-latest", True),
        ("gemini-2.5-flash", False),
    ],
)
def test_a_call_of_another_model_s_is_one_that_the_third_generation_takes(
    model: str, signed: bool
) -> None:
    """It refuses calls without a signature; an alias names such a model too."""
    said = Conversation(
        "", "m", (Message("user", (Text("Hi"),)), Message("assistant", (ToolCall("1", "f", "{}"),)))
    )
    body = GEMINI.write_request(said, Facts(model)).body
    assert (b"skip_thought_signature_validator" in body) == signed


def asked_for(part: Image | File, model: str = "gemini-2.5-flash") -> dict[str, Any]:
    """Return the part of a request to Google that a picture or a file becomes."""
    said = Conversation("", "m", (Message("user", (part,)),))
    body = json.loads(GEMINI.write_request(said, Facts(model)).body)
    found: dict[str, Any] = body["contents"][0]["parts"][0]
    return found


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (Image(Source("url", "https://a.example/b.webp?size=9")), "image/webp"),
        (Image(Source("url", "https://a.example/b")), "image/png"),
        (File(Source("url", "https://a.example/b", "text/csv")), "text/csv"),
        (File(Source("url", "https://a.example/b.pdf")), "application/pdf"),
    ],
)
def test_google_fetches_what_stands_on_the_web(part: Image | File, kind: str) -> None:
    """Since 2026; it was refused, and clients of OpenAI's send pictures so."""
    there = {"mimeType": kind, "fileUri": part.source.value}
    assert asked_for(part) == {"fileData": there}
    with pytest.raises(Untranslatable):
        asked_for(part, "gemini-2.0-flash")
    for where in ("http://a.example/b.png", "file:///etc/passwd"):
        with pytest.raises(Untranslatable):
            asked_for(Image(Source("url", where)))


def test_a_function_s_name_begins_with_a_letter_there() -> None:
    """OpenAI takes a digit; what comes back is the client's own name."""
    assert tool_name("clock") == "clock" and tool_name("_x") == "_x"
    fitted = tool_name("9lives")
    assert fitted != tool_name("_9lives") and fitted[0] == "_"
    said = Conversation("", "m", (Message("user", (Text("Hi"),)),), (Tool("9lives"),))
    called = {"content": {"parts": [{"functionCall": {"name": fitted, "args": {}}}]}}
    answer = {"candidates": [{**called, "finishReason": "STOP"}]}
    (part,) = GEMINI.events(said, frozenset()).whole(json.dumps(answer).encode()).parts
    assert isinstance(part, ToolCall)
    assert part.name == "9lives"


def test_a_count_of_a_whole_request_counts_what_is_in_it() -> None:
    """Its turns stand one level deeper; for other targets they were counted as nothing."""
    turn = {"role": "user", "parts": [{"text": "Hi"}]}
    rest = {"systemInstruction": {"parts": [{"text": "Be brief."}]}}
    for name in ("generateContentRequest", "generate_content_request"):
        body = json.dumps({name: {"model": "models/m", "contents": [turn], **rest}}).encode()
        said = GEMINI.read_request(Call("count_tokens", GEMINI.name, "m", body))
        assert [one.role for one in said.messages] == ["system", "user"]
        assert said.extras == ()


def test_a_thought_that_was_streamed_goes_back_whole_with_its_signature() -> None:
    """Claude's, in pieces: it went back without its text, which Anthropic refuses as changed."""
    blocks = [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
    ]
    deltas = [
        [
            {"type": "thinking_delta", "thinking": "Hm, "},
            {"type": "thinking_delta", "thinking": "so."},
            {"type": "signature_delta", "signature": "SIG"},
        ],
        [{"type": "text_delta", "text": "Hel"}, {"type": "text_delta", "text": "lo"}],
    ]
    sent: list[dict[str, Any]] = [{"type": "message_start", "message": {"id": "m", "usage": {}}}]
    for place, (block, pieces) in enumerate(zip(blocks, deltas, strict=True)):
        sent.append({"type": "content_block_start", "index": place, "content_block": block})
        sent += [
            {"type": "content_block_delta", "index": place, "delta": delta} for delta in pieces
        ]
        sent.append({"type": "content_block_stop", "index": place})
    reader = ANTHROPIC.events(no_request(ANTHROPIC), frozenset())
    writer = GEMINI.writer(client_call(GEMINI))
    stream = b"".join(
        writer.event(meant)
        for one in sent
        for meant in reader.event(Sse(b"", json.dumps(one).encode()))
    )
    chunks = [json.loads(one[6:]) for one in stream.split(b"\r\n\r\n") if one]
    contents = [one["candidates"][0]["content"] for one in chunks]
    together = {"role": "model", "parts": [part for one in contents for part in one["parts"]]}
    hi = {"role": "user", "parts": [{"text": "Hi"}]}
    for turns in ([together], contents):  # as one turn, or each piece as its own
        body = json.dumps({"contents": [hi, *turns, hi]}).encode()
        said = GEMINI.read_request(Call("chat", GEMINI.name, "m", body))
        assert [one.role for one in said.messages] == ["user", "assistant", "user"]
        back = json.loads(written(said, ANTHROPIC))["messages"][1]["content"]
        assert back[0] == {"type": "thinking", "thinking": "Hm, so.", "signature": "SIG"}
        assert "".join(one["text"] for one in back[1:]) == "Hello"


@pytest.mark.parametrize("config", [{}, {"includeThoughts": False}])
def test_who_says_nothing_of_thinking_begins_none(config: dict[str, bool]) -> None:
    """Google's models think or not by themselves; Claude thought, and was paid for it."""
    said = read({"text": "Hi"}, generationConfig={"thinkingConfig": config})
    assert said.reasoning is None
    assert "thinking" not in written(said, ANTHROPIC)
    asks = read({"text": "Hi"}, generationConfig={"thinkingConfig": {"includeThoughts": True}})
    assert asks.reasoning is not None


@pytest.mark.parametrize("asked", [{}, {"exclude": True}])
def test_who_only_hides_thoughts_begins_none(asked: dict[str, bool]) -> None:
    """OpenRouter's clients hide what there is; Claude thought for it, and was paid."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "reasoning": asked}
    said = OPENAI.read_request(Call("chat", OPENAI.name, "m", json.dumps(body).encode()))
    assert "thinking" not in written(said, ANTHROPIC)
    said = OPENAI.read_request(
        Call("chat", OPENAI.name, "m", json.dumps(body | {"reasoning_effort": "low"}).encode())
    )
    assert said.reasoning is not None
