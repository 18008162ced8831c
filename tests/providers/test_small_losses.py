"""Small things of a request or an answer: each is carried, or named where it is left out."""

import json
from typing import Any

import pytest
from translated import (
    ANTHROPIC,
    BEDROCK,
    COHERE,
    GEMINI,
    OPENAI,
    RESPONSES,
    client_call,
    streamed,
)

from tollway.providers.canon import Call
from tollway.providers.catalog import KINDS
from tollway.providers.conversation import Conversation, Refusal, Text
from tollway.providers.dialects.dialect import Asks, Codec, Facts
from tollway.providers.errors import RequestInvalid, Untranslatable
from tollway.providers.events import (
    Answer,
    Choice,
    Event,
    Logprob,
    LogprobsDelta,
    Start,
    Stopped,
    TextDelta,
)
from tollway.providers.fold import unfold


def blocks(what: str) -> dict[str, Any]:
    """Return a moderation that holds something back."""
    return {"model": "m", "policy": {what: {"mode": "block"}}}


MARK = {"cache_control": {"type": "ephemeral"}}
USER = {"role": "user", "content": "Hi"}
CALL = {"type": "tool_use", "id": "a", "name": "ls", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "x"}
PDF = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
}


def read(codec: Codec, **body: Any) -> Conversation:
    """Return what a client's body says."""
    said = json.dumps({"model": "m", **body}).encode()
    return codec.read_request(Call("chat", codec.name, "m", said))


def written(
    said: Conversation, target: Asks, kind: str = "openai-compatible"
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the body for a target, and what was left out."""
    model = "claude-sonnet-4-5" if target is ANTHROPIC else "anthropic.claude-sonnet-4-5-v1:0"
    found = target.write_request(said, Facts(model, quirks=KINDS[kind].quirks))
    return json.loads(found.body), found.dropped


def turns(call: dict[str, Any], *results: dict[str, Any]) -> Conversation:
    """Return a conversation in which a tool was called."""
    said = [USER, {"role": "assistant", "content": [{"type": "text", "text": "So"}, call]}]
    return read(ANTHROPIC, messages=[*said, {"role": "user", "content": list(results)}])


@pytest.mark.parametrize(
    ("codec", "target", "kind"),
    [
        (RESPONSES, OPENAI, "openrouter"),
        (RESPONSES, OPENAI, "openai"),
        (OPENAI, RESPONSES, "openai"),
    ],
)
def test_a_name_that_is_too_long_costs_itself_and_not_the_call(
    codec: Codec, target: Asks, kind: str
) -> None:
    """OpenAI refuses more than 64 characters, also behind OpenRouter, which passes them on."""
    said = {"input": "Hi"} if codec is RESPONSES else {"messages": [USER]}
    for size, lost in ((64, ()), (65, ("user", "prompt_cache_key"))):
        names = {"user": "u" * size, "prompt_cache_key": "k" * size}
        body, dropped = written(read(codec, **said, **names), target, kind)
        assert dropped == lost
        assert {name: body[name] for name in names if name in body} == ({} if lost else names)


@pytest.mark.parametrize(
    "result",
    [RESULT | MARK, RESULT | {"content": [{"type": "text", "text": "x", **MARK}]}],
    ids=["of the result", "within it"],
)
def test_where_an_agent_s_prompt_is_cached_reaches_openrouter(result: dict[str, Any]) -> None:
    """Claude Code marks its last result: its whole conversation was read anew with every call.

    The mark stands in the text; one beside it makes OpenRouter hang.
    """
    body, dropped = written(turns(CALL, result), OPENAI, "openrouter")
    assert body["messages"][-1] == {
        "role": "tool",
        "tool_call_id": "a",
        "content": [{"type": "text", "text": "x", **MARK}],
    }
    assert dropped == ()
    for target in (OPENAI, RESPONSES, GEMINI, COHERE):
        assert written(turns(CALL, result), target)[1] == ("cache_control",), target.name


def test_a_mark_of_a_whole_turn_of_a_chat_is_one() -> None:
    """Of a result it was two, of which Claude takes four in all; of parts it was none."""
    call = {"id": "a", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "x"},
    ]
    for place, message in enumerate(messages):
        said = [*messages[:place], message | MARK, *messages[place + 1 :]]
        body = json.dumps(written(read(OPENAI, messages=said), ANTHROPIC)[0]["messages"])
        assert body.count("cache_control") == 1, message
        assert json.loads(body)[place]["content"][-1]["cache_control"] == MARK["cache_control"]


def test_a_mark_of_what_the_assistant_said_reaches_openrouter_too() -> None:
    """One of its call does not: there is no place for it."""
    text = {"type": "text", "text": "So", **MARK}
    said = read(ANTHROPIC, messages=[USER, {"role": "assistant", "content": [text]}, USER])
    body, dropped = written(said, OPENAI, "openrouter")
    assert (body["messages"][1]["content"], dropped) == ([text], ())
    body, dropped = written(turns(CALL | MARK, RESULT), OPENAI, "openrouter")
    assert (body["messages"][1]["content"], dropped) == ("So", ("cache_control",))


@pytest.mark.parametrize("within", ["document", "search_result"])
def test_a_mark_within_a_document_is_the_document_s(within: str) -> None:
    """It was lost in silence."""
    texts = [{"type": "text", "text": "x", **MARK}]
    block: dict[str, Any] = {"type": "document", "source": {"type": "content", "content": texts}}
    if within == "search_result":
        block = {"type": within, "source": "s", "title": "t", "content": texts}
    said = read(ANTHROPIC, messages=[{"role": "user", "content": [block]}])
    assert "cache_control" in written(said, OPENAI)[1]


@pytest.mark.parametrize("target", [OPENAI, RESPONSES], ids=lambda one: one.name)
def test_what_is_said_about_a_document_stands_before_it(target: Asks) -> None:
    """OpenAI's parts have no place for it; of a PDF it was lost, of a text it was not."""
    block = PDF | {"title": "a.pdf", "context": "From 2019"}
    body, dropped = written(
        read(ANTHROPIC, messages=[{"role": "user", "content": [block]}]), target
    )
    content = (body.get("messages") or body["input"])[0]["content"]
    assert [part.get("text") for part in content] == ["From 2019", None]
    assert dropped == ()


@pytest.mark.parametrize("target", [ANTHROPIC, BEDROCK], ids=lambda one: one.name)
def test_who_instructs_is_named_as_who_speaks_is(target: Asks) -> None:
    """The name of a user was named as left out, that of an instruction was not."""
    said = read(OPENAI, messages=[{"role": "system", "content": "Be brief", "name": "a"}, USER])
    assert written(said, target)[1] == ("messages.name",)


def test_what_a_schema_is_for_is_said_within_it() -> None:
    """Anthropic has no other place."""
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    asked = {"name": "a", "description": "A city", "schema": schema}
    said = read(
        OPENAI,
        messages=[USER],
        response_format={"type": "json_schema", "json_schema": asked},
    )
    found = written(said, ANTHROPIC)[0]["output_config"]["format"]["schema"]
    assert found == schema | {"description": "A city"}


def test_an_item_by_its_id_alone_is_refused_as_that() -> None:
    """OpenAI's types let its `type` be left out; it was a message of an unknown role."""
    with pytest.raises(Untranslatable, match="referred to by its id"):
        read(RESPONSES, input=[{"id": "msg_1"}])


def test_how_likely_half_a_letter_was_is_told_with_the_text_that_follows() -> None:
    """A text that begins with an emoji has tokens before it has any text."""
    found: list[Event] = [
        Start("a", "m"),
        TextDelta(""),
        LogprobsDelta((Logprob("half", -0.1),)),
        TextDelta("Hi"),
        LogprobsDelta((Logprob("Hi", -0.2),)),
        Stopped("end"),
    ]
    last = json.loads(streamed(RESPONSES, found).rpartition(b"data: ")[2])
    (part,) = last["response"]["output"][0]["content"]
    assert [one["token"] for one in part["logprobs"]] == ["half", "Hi"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("client", [ANTHROPIC, RESPONSES], ids=lambda one: one.name)
def test_how_likely_a_refusal_was_is_named(client: Codec, stream: bool) -> None:
    """In streams as in whole answers."""
    choice = Choice((Refusal("No"),), "refusal", refusal_logprobs=(Logprob("No", -0.1),))
    writer = client.writer(client_call(client, stream=stream))
    if stream:
        for event in unfold(Answer((choice,))):
            writer.event(event)
    else:
        writer.whole(Answer((choice,)))
    assert writer.dropped == {"logprobs"}


@pytest.mark.parametrize("kind", ["mistral", "deepseek", "openai-compatible"])
def test_a_turn_of_thoughts_alone_is_no_turn(kind: str) -> None:
    """Mistral and DeepSeek refuse an assistant that says nothing; it was cut off while it thought.

    What the user said before and after it is one.
    """
    thought = {"type": "thinking", "thinking": "Hm", "signature": ""}
    said = read(ANTHROPIC, messages=[USER, {"role": "assistant", "content": [thought]}, USER])
    body, dropped = written(said, OPENAI, kind)
    assert body["messages"] == [{"role": "user", "content": "Hi\n\nHi"}]
    assert dropped == ("thinking",)


def test_deepseek_is_told_that_a_turn_had_no_thoughts() -> None:
    """A model of DeepSeek's that thinks refuses a turn that does not say; others do not know it."""
    thinks = {"type": "thinking", "thinking": "Hm", "signature": ""}
    turns_ = [
        USER,
        {"role": "assistant", "content": [thinks, {"type": "text", "text": "A"}]},
        USER,
        {"role": "assistant", "content": "B"},
        USER,
    ]
    for thinking, said_of in (({}, ["Hm", ""]), ({"type": "disabled"}, ["Hm", None])):
        more = {"thinking": thinking} if thinking else {}
        body = written(read(ANTHROPIC, messages=turns_, **more), OPENAI, "deepseek")[0]
        assistant = [one for one in body["messages"] if one["role"] == "assistant"]
        assert [one.get("reasoning_content") for one in assistant] == said_of
    body = written(read(ANTHROPIC, messages=turns_), OPENAI, "vllm")[0]
    assert [one.get("reasoning_content") for one in body["messages"]] == [None, "Hm"] + 3 * [None]


def test_thoughts_that_led_to_nothing_do_not_go_back_to_openai() -> None:
    """An answer that was cut off while the model thought: OpenAI refuses them by themselves."""
    thought = {"type": "redacted_thinking", "data": "tollway.openai_responses.enc:rs_1.secret"}
    text = {"type": "text", "text": "So"}
    for content, kinds, lost in (
        ([thought, text], ["message", "reasoning", "message", "message"], ()),
        ([thought], ["message", "message"], ("thinking",)),
        ([thought, text, thought], ["message", "reasoning", "message", "message"], ("thinking",)),
    ):
        said = read(ANTHROPIC, messages=[USER, {"role": "assistant", "content": content}, USER])
        body, dropped = written(said, RESPONSES)
        assert [item["type"] for item in body["input"]] == kinds
        assert dropped == lost


@pytest.mark.parametrize("target", [ANTHROPIC, BEDROCK], ids=lambda one: one.name)
def test_white_space_alone_is_no_text(target: Asks) -> None:
    """Qwen writes two line ends before a call; Anthropic refuses a block that says no more."""
    call = {"id": "a", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    said = read(
        OPENAI,
        messages=[
            USER,
            {"role": "assistant", "content": "\n\n", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "a", "content": " "},
        ],
    )
    turns_ = written(said, target)[0]["messages"]
    assert len(turns_[1]["content"]) == 1
    assert " " not in [block.get("text") for block in turns_[2]["content"]]


def answer(asked: Conversation, message: dict[str, Any], **choice: Any) -> tuple[Answer, set[str]]:
    """Return what a chat's answer says, and what of it no event does."""
    reader = OPENAI.events(asked, frozenset())
    one = {"index": 0, "message": message, "finish_reason": "stop", **choice}
    found = reader.whole(json.dumps({"id": "a", "model": "m", "choices": [one]}).encode())
    return found, reader.dropped


@pytest.mark.parametrize(
    ("told", "stop", "sequence"),
    [("Human:", "stop_sequence", "Human:"), ("<|im_end|>", "end", ""), (151645, "end", "")],
)
def test_a_stop_sequence_is_told_in_sglang_s_word(told: object, stop: str, sequence: str) -> None:
    """Anthropic's clients heard that the model had ended; its template has stops of its own."""
    asked = read(ANTHROPIC, messages=[USER], stop_sequences=["Human:"])
    (choice,) = answer(asked, {"content": "a"}, matched_stop=told)[0].choices
    assert (choice.stop, choice.sequence) == (stop, sequence)


def test_notes_that_cite_no_page_are_named() -> None:
    """OpenRouter's of files that it has read, Groq's of documents: no other dialect has them."""
    page = {"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "A"}}
    message = {"content": "Hi", "annotations": [page, {"type": "file", "file": {"hash": "x"}}]}
    found, dropped = answer(read(OPENAI, messages=[USER]), message)
    (text,) = found.parts
    assert isinstance(text, Text)
    assert [one.title for one in text.citations] == ["A"]
    assert dropped == {"annotations"}


@pytest.mark.parametrize(
    ("client", "part"),
    [
        (RESPONSES, {"type": "input_image", "detail": "auto"}),
        (RESPONSES, {"type": "input_file", "filename": "a.pdf"}),
        (OPENAI, {"type": "file", "file": {"filename": "a.pdf"}}),
    ],
)
def test_a_part_that_holds_nothing_is_refused_by_its_place(
    client: Codec, part: dict[str, Any]
) -> None:
    """Types of OpenAI's library let it be; Claude was sent a picture at no address."""
    turns = {"input" if client is RESPONSES else "messages": [{**USER, "content": [part]}]}
    with pytest.raises(RequestInvalid, match="needs `") as refused:
        read(client, **turns)
    assert refused.value.param in ("input[0].content[0]", "messages[0].content[0]")


@pytest.mark.parametrize("codec", [OPENAI, RESPONSES], ids=lambda codec: codec.name)
def test_of_two_that_a_call_is_for_one_is_named(codec: Codec) -> None:
    """OpenAI's newer field goes before its older one, which others have no second place for."""
    said = {"input": "Hi"} if codec is RESPONSES else {"messages": [USER]}
    for user, lost in (("ann", ()), ("bob", ("user",)), (None, ())):
        asked = read(codec, **said, safety_identifier="ann", user=user)
        body, dropped = written(asked, ANTHROPIC)
        assert (body["metadata"], dropped) == ({"user_id": "ann"}, lost)


@pytest.mark.parametrize(
    ("said", "there"),
    [
        ("fast", ("priority", "priority", "priority", None)),
        ("priority", ("priority", "priority", "priority", None)),
        ("flex", ("flex", None, "flex", None)),
        ("standard_only", (None, None, None, "standard_only")),
        ("on_demand", (None, None, None, "standard_only")),
    ],
)
def test_a_service_tier_is_asked_for_by_its_name_there(
    said: str, there: tuple[str | None, ...]
) -> None:
    """A tier has several names; who has none of its kind is not asked, and that is named."""
    asked = read(RESPONSES, input="Hi", service_tier=said)
    found = []
    for target, kind, name in (
        (OPENAI, "openrouter", "service_tier"),
        (OPENAI, "fireworks", "service_tier"),
        (GEMINI, "gemini", "serviceTier"),
        (ANTHROPIC, "anthropic", "service_tier"),
    ):
        body, dropped = written(asked, target, kind)
        found.append(body.get(name))
        usual = said in ("standard_only", "on_demand")
        assert ("service_tier" in dropped) is (name not in body and not usual), kind
    assert tuple(found) == there


@pytest.mark.parametrize(
    ("model", "rests"),
    [
        ("gemini-2.5-pro", False),
        ("gemini-2.5-flash", True),
        ("gemini-3-pro-preview", False),
        ("gemini-3-flash-preview", True),
    ],
)
def test_google_s_models_that_always_think_are_told_of(model: str, rests: bool) -> None:
    """Its Pro cannot be told not to: thoughts that nobody wants are billed all the same."""
    said = read(OPENAI, messages=[USER], reasoning_effort="none")
    found = GEMINI.write_request(said, Facts(model))
    assert found.dropped == (() if rests else ("reasoning.off",))


@pytest.mark.parametrize("target", [OPENAI, RESPONSES, ANTHROPIC, BEDROCK, COHERE])
def test_a_refusal_names_the_field_as_its_client_does(target: Asks) -> None:
    """Google's clients know no `modalities`, and some libraries show nothing but the message."""
    contents = [{"role": "user", "parts": [{"text": "Hi"}]}]
    for name, value in (("responseModalities", ["TEXT", "IMAGE"]), ("candidateCount", 2)):
        said = read(GEMINI, contents=contents, generationConfig={name: value})
        if name == "candidateCount" and target is OPENAI:
            continue  # which gives several
        with pytest.raises(Untranslatable, match=f"`{name}` asks for") as refused:
            written(said, target)
        assert refused.value.param == name


@pytest.mark.parametrize(
    ("codec", "more", "param"),
    [
        (OPENAI, {"moderation": blocks("input")}, "moderation.policy.input"),
        (RESPONSES, {"moderation": blocks("output")}, "moderation.policy.output"),
        (RESPONSES, {"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm"),
        (GEMINI, {"modelArmorConfig": {"promptTemplateName": "a"}}, "modelArmorConfig"),
    ],
)
def test_an_answer_that_was_to_be_held_back_is_not_given(
    codec: Codec, more: dict[str, Any], param: str
) -> None:
    """Nobody else screens a prompt or an answer so, or makes ready for one that does not come."""
    said = {"input": "Hi"} if codec is RESPONSES else {"messages": [USER]}
    with pytest.raises(Untranslatable) as refused:
        read(codec, **({} if codec is GEMINI else said), **more)
    assert refused.value.param == param


@pytest.mark.parametrize("codec", [OPENAI, RESPONSES], ids=lambda codec: codec.name)
def test_scores_beside_an_answer_are_named(codec: Codec) -> None:
    """They change nothing of it."""
    said = {"input": "Hi"} if codec is RESPONSES else {"messages": [USER]}
    more = {"moderation": {"model": "m"}, "prompt_cache_options": {"ttl": "30m"}}
    _, dropped = written(read(codec, **said, **more), ANTHROPIC)
    assert set(dropped) == {"moderation", "prompt_cache_options"}
