"""What a request says that no other dialect can: named where it is left out, or refused."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, ASKS, BEDROCK, GEMINI, OPENAI, RESPONSES

from tollway.daemon.gate.translate import without_offers
from tollway.providers.canon import Call
from tollway.providers.conversation import Conversation
from tollway.providers.dialects.dialect import Asks, Codec, Facts
from tollway.providers.errors import Untranslatable

HI: dict[str, dict[str, Any]] = {
    ANTHROPIC.name: {"max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]},
    OPENAI.name: {"messages": [{"role": "user", "content": "Hi"}]},
    RESPONSES.name: {"input": "Hi"},
    GEMINI.name: {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
}
MODELS = {ANTHROPIC.name: "claude-sonnet-4-5", BEDROCK.name: "us.anthropic.claude-sonnet-4-5"}
OBJECT = {"type": "object", "properties": {}}
VIDEO = {"inlineData": {"mimeType": "video/mp4", "data": "aGk="}, "videoMetadata": {"fps": 1}}
CITING = {"type": "text", "text": "Hi", "citations": [{"type": "char_location"}]}
TOOL = {"type": "function", "name": "ls", "parameters": OBJECT}


def read(codec: Codec, **more: Any) -> Conversation:
    """Return what a client's body says, without what it only offers."""
    body = json.dumps({"model": "m"} | HI[codec.name] | more).encode()
    said, _ = without_offers(codec.read_request(Call("chat", codec.name, "m", body)))
    return said


def written(said: Conversation, target: Asks) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the body for a target, and what was left out."""
    facts = Facts(MODELS.get(target.name, "gemini-2.5-flash"), default_output=4096)
    found = target.write_request(said, facts)
    return json.loads(found.body), found.dropped


def others(codec: Codec) -> list[Asks]:
    """Return the dialects that a request of this one's may be translated to."""
    return [target for target in ASKS.values() if target is not codec]


@pytest.mark.parametrize(
    ("codec", "more", "name"),
    [
        (
            ANTHROPIC,
            {"output_config": {"task_budget": {"type": "tokens", "total": 9}}},
            "output_config.task_budget",
        ),
        (ANTHROPIC, {"thinking": {"type": "between_tools"}}, "thinking.type"),
        (
            ANTHROPIC,
            {"thinking": {"type": "adaptive", "block_binding": {}}},
            "thinking.block_binding",
        ),
        (RESPONSES, {"tools": [TOOL | {"defer_loading": True}]}, "tools.defer_loading"),
        (RESPONSES, {"tools": [TOOL | {"output_schema": OBJECT}]}, "tools.output_schema"),
        (RESPONSES, {"reasoning": {"effort": "low", "context": "all"}}, "reasoning.context"),
        (GEMINI, {"toolConfig": {"retrievalConfig": {"languageCode": "de"}}}, "retrievalConfig"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_only_one_dialect_has_is_named(codec: Codec, more: dict[str, Any], name: str) -> None:
    """It was lost in silence, or, of one, refused."""
    said = read(codec, **more)
    for target in others(codec):
        assert name in written(said, target)[1], target.name


@pytest.mark.parametrize("chosen", [(), ("crm__rm",)])
def test_what_a_namespace_says_of_its_tools_is_carried(chosen: tuple[str, ...]) -> None:
    """Codex puts there what an MCP server says of itself; it was lost. The model reads it once."""
    tools = [TOOL, TOOL | {"name": "rm", "description": "Delete"}]
    choice = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "namespace": "crm", "name": "rm"}],
    }
    said = read(
        RESPONSES,
        tools=[
            {"type": "namespace", "name": "crm", "description": "Our customers", "tools": tools}
        ],
        **({"tool_choice": choice} if chosen else {}),
    )
    for target in others(RESPONSES):
        asked = json.dumps(written(said, target)[0])
        assert asked.count("Our customers") == 1, target.name
        about = "Of all tools `crm__*`: Our customers"
        assert f"{about}\\n\\nDelete" in asked if chosen else about in asked


# An object within each client's request, as a path, and a field that it may have there.
WITHIN: list[tuple[Codec, dict[str, Any], str]] = [
    (
        RESPONSES,
        {
            "input": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Let me see", "phase": "commentary"},
            ]
        },
        "input.phase",
    ),
    (
        RESPONSES,
        {
            "input": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "input_file",
                            "filename": "a.pdf",
                            "file_data": "data:application/pdf;base64,aGk=",
                            "detail": "high",
                        }
                    ],
                }
            ]
        },
        "input.content.detail",
    ),
    (RESPONSES, {"text": {"format": {"type": "text"}, "pace": 1}}, "text.pace"),
    (
        ANTHROPIC,
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image",
                            "source": {
                                "type": "base64",
                                "media_type": "image/png",
                                "data": "aGk=",
                            },
                            "transformations": {"oversized_image": "reject"},
                        }
                    ],
                }
            ]
        },
        "messages.content.transformations",
    ),
    (
        ANTHROPIC,
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "system", "output_config": {"effort": "high"}},
            ]
        },
        "messages.output_config",
    ),
    *(
        (ANTHROPIC, {"messages": [{"role": "user", "content": [block]}]}, f"messages.{name}")
        for block, name in (
            (
                {"type": "document", "source": {"type": "content", "content": [CITING]}},
                "content.source.content.citations",
            ),
            (
                {"type": "search_result", "source": "a", "title": "b", "content": [CITING]},
                "content.content.citations",
            ),
        )
    ),
    *(
        (RESPONSES, {"input": [item | {"tools": [], "agent": {"agent_name": "a"}}]}, "input.agent")
        for item in (
            {"type": "additional_tools", "role": "developer"},
            {"type": "tool_search_output", "call_id": "a"},
        )
    ),
    (
        OPENAI,
        {"tools": [{"type": "function", "function": TOOL | {"name": "ls", "cache": "no"}}]},
        "tools.function.cache",
    ),
    (OPENAI, {"messages": [{"role": "user", "content": "Hi", "mood": "good"}]}, "messages.mood"),
    *(
        (GEMINI, {"contents": [{"role": "user", "parts": [part]}]}, f"contents.parts.{name}")
        for part, name in (
            ({"text": "Hi", "mood": "good"}, "mood"),
            (
                {"inline_data": {"mime_type": "image/png", "data": "aGk=", "display_name": "a"}},
                "inlineData.displayName",
            ),
            (
                {"inlineData": {"mimeType": "text/plain", "data": "aGk=", "page": 1}},
                "inlineData.page",
            ),
            (
                {"functionResponse": {"name": "f", "response": {}, "scheduling": "SILENT"}},
                "functionResponse.scheduling",
            ),
            (
                {
                    "functionResponse": {
                        "name": "f",
                        "parts": [
                            {
                                "inlineData": {
                                    "mimeType": "image/png",
                                    "data": "aGk=",
                                    "displayName": "a",
                                }
                            }
                        ],
                    }
                },
                "functionResponse.parts.inlineData.displayName",
            ),
        )
    ),
    (GEMINI, {"contents": [{"parts": [{"text": "Hi"}], "mood": "good"}]}, "contents.mood"),
    (
        GEMINI,
        {"system_instruction": {"parts": [{"text": "Hi", "mood": 1}]}},
        "systemInstruction.parts.mood",
    ),
    (
        GEMINI,
        {"toolConfig": {"function_calling_config": {"stream_function_call_arguments": True}}},
        "functionCallingConfig.streamFunctionCallArguments",
    ),
    (GEMINI, {"generationConfig": {"thinkingConfig": {"pace": 1}}}, "thinkingConfig.pace"),
    (
        GEMINI,
        {"toolConfig": {"functionCallingConfig": {"mode": "validated"}}},
        "functionCallingConfig.mode",
    ),
]


@pytest.mark.parametrize(("codec", "more", "name"), WITHIN, ids=[name for _, _, name in WITHIN])
def test_a_field_that_nobody_reads_is_named_wherever_it_stands(
    codec: Codec, more: dict[str, Any], name: str
) -> None:
    """In a message, a part or a tool, not only at the top; those were lost in silence."""
    assert read(codec, **more).unread == (name,)


def test_what_an_earlier_text_rested_on_is_named() -> None:
    """No other dialect can be told of it; it was lost in silence, but on the way to Claude."""
    note = {"type": "url_citation", "url": "https://a.example", "title": "A"}
    place = {"start_index": 0, "end_index": 2}
    text = {"type": "output_text", "text": "Hi", "annotations": [note | place]}
    items = [{"type": "message", "role": "assistant", "content": [text]}]
    assert read(RESPONSES, input=items).unread == ("input.content.annotations",)
    cited = {"type": "char_location", "cited_text": "Hi", "document_index": 0}
    block = {"type": "text", "text": "Hi", "citations": [cited]}
    said = read(ANTHROPIC, messages=[{"role": "assistant", "content": [block]}])
    assert said.unread == ("messages.content.citations",)
    turn = {"role": "assistant", "content": "Hi", "annotations": [note]}
    assert read(OPENAI, messages=[turn]).unread == ("messages.annotations",)


def test_what_an_answer_brought_back_is_no_loss() -> None:
    """Clients send items as they came: ids, states, notes; and fields that say nothing."""
    text = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
    items = [
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
         "content": [text], "phase": None},
        {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "ls", "arguments": "{}",
         "status": "completed", "caller": {"type": "direct"}},
    ]  # fmt: skip
    assert read(RESPONSES, input=items).unread == ()
    block = {"type": "tool_use", "id": "c", "name": "ls", "input": {}, "caller": {"type": "direct"}}
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [block]}]
    assert read(ANTHROPIC, messages=turns).unread == ()
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "ls", "arguments": ""}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call], "annotations": []}
    assert read(OPENAI, messages=[turn]).unread == ()
    parts: list[dict[str, Any]] = [
        {"text": "Hm", "thought": True},
        {"functionCall": {"id": "c", "name": "ls", "args": {}}, "thoughtSignature": "c2ln"},
        {"executableCode": {"code": "1"}, "thoughtSignature": "c2ln"},
    ]
    assert read(GEMINI, contents=[{"role": "model", "parts": parts}]).unread == ()


def test_the_name_of_a_file_of_google_s_reaches_other_models() -> None:
    """Theirs all have one; pictures and sounds have none anywhere else."""
    data = {"mimeType": "application/pdf", "data": "aGk=", "displayName": "plan.pdf"}
    said = read(GEMINI, contents=[{"role": "user", "parts": [{"inlineData": data}]}])
    assert said.unread == ()
    body, _ = written(said, OPENAI)
    (part,) = body["messages"][0]["content"]
    assert part["file"]["filename"] == "plan.pdf"


FOUND = ("web_search_call.action.sources", "file_search_call.results")
# What some clients write into every request, and asks for nothing that is not done anyway.
USUAL: dict[str, dict[str, Any]] = {
    OPENAI.name: {
        **{"frequency_penalty": 0, "presence_penalty": 0.0, "min_p": 0, "temperature": 1},
        **{"top_p": 1, "n": 1, "logprobs": False, "logit_bias": {}, "metadata": {}, "user": ""},
        **{"store": False, "service_tier": "auto", "verbosity": "medium", "tools": []},
        **{"tool_choice": "auto", "response_format": {"type": "text"}, "modalities": ["text"]},
    },
    RESPONSES.name: {
        **{"truncation": "disabled", "background": False, "include": [], "top_logprobs": 0},
        **{"temperature": 1, "top_p": 1, "metadata": {}, "service_tier": "auto", "tools": []},
        **{"text": {"format": {"type": "text"}, "verbosity": "medium"}, "store": False},
        **{"reasoning": {"effort": None, "summary": None}, "context_management": []},
        # Of tools that the provider runs, and there are none; of pictures, which the client has.
        **{"max_tool_calls": 5, "include": [*FOUND, "message.input_image.image_url"]},
    },
    ANTHROPIC.name: {
        **{"temperature": 1.0, "service_tier": "auto", "stop_sequences": [], "metadata": {}},
        **{"speed": "standard", "mcp_servers": [], "tools": []},
    },
}


@pytest.mark.parametrize("codec", [OPENAI, RESPONSES, ANTHROPIC], ids=lambda codec: codec.name)
def test_what_is_done_anyway_is_no_loss(codec: Codec) -> None:
    """It was named, and a route that allows no loss refused requests that lose none."""
    for tier in ("auto", "default" if codec is not ANTHROPIC else "standard_only"):
        said = read(codec, **USUAL[codec.name] | {"service_tier": tier})
        for target in others(codec):
            assert written(said, target)[1] + said.unread == (), target.name


def test_a_seed_of_zero_is_one() -> None:
    """Zero is off for penalties alone."""
    said = read(OPENAI, seed=0, presence_penalty=-1)
    assert written(said, ANTHROPIC)[1] == ("seed", "presence_penalty")


def test_how_to_look_at_a_part_is_named() -> None:
    """Which frames of a video, and how closely; which pages, which cells."""
    said = read(GEMINI, contents=[{"role": "user", "parts": [VIDEO]}])
    assert said.unread == ("contents.parts.videoMetadata",)
    for name in ("documentMetadata", "spreadsheet_metadata", "audioMetadata", "speechMetadata"):
        said = read(GEMINI, contents=[{"role": "user", "parts": [{"text": "Hi", name: {"a": 1}}]}])
        assert any("etadata" in one for one in said.unread), name


def test_a_tool_s_own_fields_stay_in_their_dialect() -> None:
    """Anthropic refuses Google's `behavior`."""
    declared = {"name": "ls", "parameters": OBJECT, "behavior": "NON_BLOCKING"}
    said = read(GEMINI, tools=[{"functionDeclarations": [declared]}])
    body, dropped = written(said, ANTHROPIC)
    assert body["tools"] == [{"name": "ls", "input_schema": OBJECT}]
    assert "tools.behavior" in dropped


def test_a_plain_text_tool_s_grammar_is_named_by_all() -> None:
    """Three of five were silent; a tool that takes any text loses nothing."""
    format_ = {"type": "grammar", "syntax": "lark", "definition": "start: x"}
    tool = {"type": "custom", "name": "patch", "format": format_}
    said = read(RESPONSES, tools=[tool])
    plain = read(RESPONSES, tools=[tool | {"format": {"type": "text"}}])
    for target in others(RESPONSES):
        assert "tools.format" in written(said, target)[1], target.name
        assert "tools.format" not in written(plain, target)[1], target.name


def test_where_to_cache_is_the_same_place_for_all() -> None:
    """OpenAI's breakpoint is Anthropic's marker, as it already was in chat completions."""
    mark = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    turn: dict[str, Any] = {"role": "user"}
    turn["content"] = [{"type": "input_text", "text": "A", **mark}]
    said = read(RESPONSES, input=[turn])
    (asked,) = written(said, ANTHROPIC)[0]["messages"]
    assert asked["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert "cache_control" in written(said, GEMINI)[1]
    mark["prompt_cache_breakpoint"]["ttl"] = "12h"
    turn["content"] = [{"type": "input_text", "text": "A", **mark}]
    (asked,) = written(read(RESPONSES, input=[turn]), ANTHROPIC)[0]["messages"]
    assert asked["content"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}


def test_a_summary_of_what_was_before_is_not_left_out() -> None:
    """After Anthropic's compaction an agent sends nothing else of it."""
    block = {"type": "compaction", "content": "They like tea."}
    turns = [{"role": "assistant", "content": [block]}, {"role": "user", "content": "And now?"}]
    said = read(ANTHROPIC, messages=turns)
    for target in others(ANTHROPIC):
        assert "They like tea." in json.dumps(written(said, target)[0])


@pytest.mark.parametrize(
    ("codec", "turn"),
    [
        (RESPONSES, {"input": [{"type": "compaction", "encrypted_content": "gAAAA"}]}),
        (
            ANTHROPIC,
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "compaction", "encrypted_content": "gAAAA"}],
                    }
                ]
            },
        ),
    ],
    ids=["openai's", "anthropic's"],
)
def test_one_that_only_its_provider_can_read_is_refused(codec: Codec, turn: dict[str, Any]) -> None:
    """Without it the answer is one to another conversation."""
    said = read(codec, **turn)
    for target in others(codec):
        with pytest.raises(Untranslatable):
            written(said, target)


@pytest.mark.parametrize("content", ["One. Two.", [{"type": "text", "text": "One. Two."}]])
def test_a_document_in_pieces_is_its_text(content: Any) -> None:
    """It was refused, though every dialect can say text."""
    source = {"type": "content", "content": content}
    document = {"type": "document", "source": source, "title": "Tea"}
    said = read(ANTHROPIC, messages=[{"role": "user", "content": [document]}])
    for target in others(ANTHROPIC):
        assert "One. Two." in json.dumps(written(said, target)[0])


def test_a_spoken_answer_goes_on_as_its_words() -> None:
    """OpenAI's library sends its message back as it came: the assistant's turn was left out.

    Where there is an id alone only OpenAI knows what was said; to two dialects it was nothing.
    """
    spoken = {"id": "audio_1", "data": "aGk=", "expires_at": 1, "transcript": "Tea is good"}
    user = {"role": "user", "content": "Tea?"}
    turn = {"role": "assistant", "content": None, "audio": spoken}
    said = read(OPENAI, messages=[user, turn, user])
    assert said.unread == ("messages.audio.data",)
    for target in others(OPENAI):
        assert "Tea is good" in json.dumps(written(said, target)[0]), target.name
    said = read(OPENAI, messages=[user, turn | {"audio": {"id": "audio_1"}}, user])
    for target in others(OPENAI):
        with pytest.raises(Untranslatable):
            written(said, target)


def test_code_that_google_ran_is_history_to_others() -> None:
    """As Anthropic's and OpenAI's own tools are."""
    ran = [
        {"executableCode": {"language": "PYTHON", "code": "1+1"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2"}},
        {"text": "2"},
    ]
    turns = [{"role": "user", "parts": [{"text": "1+1?"}]}, {"role": "model", "parts": ran}]
    said = read(GEMINI, contents=[*turns, {"role": "user", "parts": [{"text": "Sure?"}]}])
    for target in others(GEMINI):
        assert {"executableCode", "codeExecutionResult"} <= set(written(said, target)[1])


def test_googles_shapes_are_held_to_or_refused() -> None:
    """A schema without the type that goes with it; and the newer field, which nobody else has."""
    schema = {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}
    said = read(GEMINI, generationConfig={"responseSchema": schema})
    assert written(said, OPENAI)[0]["response_format"]["type"] == "json_schema"
    with pytest.raises(Untranslatable):
        read(GEMINI, generationConfig={"responseFormat": [{"text": {}}]})


@pytest.mark.parametrize(("tier", "there"), [("flex", "flex"), ("STANDARD", "default")])
def test_googles_service_tier_is_openais(tier: str, there: str) -> None:
    """It was left out."""
    assert written(read(GEMINI, serviceTier=tier), RESPONSES)[0]["service_tier"] == there


def test_a_file_for_a_container_is_refused_and_one_from_it_is_history() -> None:
    """Chat servers were asked without the file that a user put there; it was named as dropped."""
    file = {"type": "container_upload", "file_id": "file_1"}
    text = {"type": "text", "text": "What is in it?"}
    user = {"role": "user", "content": "Draw a tree"}
    for content in ([file, text], [{"type": "tool_result", "tool_use_id": "a"}, file]):
        with pytest.raises(Untranslatable) as refusal:
            read(ANTHROPIC, messages=[user, {"role": "user", "content": content}])
        assert refusal.value.param == "messages[1].content"
    said = read(ANTHROPIC, messages=[user, {"role": "assistant", "content": [text, file]}, user])
    for target in others(ANTHROPIC):
        assert "container_upload" in written(said, target)[1], target.name
