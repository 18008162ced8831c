"""What a request can say, in the words of each client's library.

`SAID` has a row for each feature: the arguments of each library's call, None where the dialect
has no words for it.
"""

from typing import Any

CHAT, RESPONSES, ANTHROPIC, GEMINI = (
    "openai_chat",
    "openai_responses",
    "anthropic_messages",
    "gemini",
)
# Spoken to providers alone.
COHERE, BEDROCK = "cohere", "bedrock"
Said = dict[str, Any] | None

HI = "Hi there"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
PDF = "JVBERi0="
PNG_URL, PDF_URL = f"data:image/png;base64,{PNG}", f"data:application/pdf;base64,{PDF}"
WAV = "UklGRg=="
URL = "https://example.com/cat.png"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def _user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def _gemini(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": list(parts)}]}


# The four ways to offer two tools.
_CHAT_TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}}
    for name in ("weather", "clock")
]
_RESPONSES_TOOLS = [
    {"type": "function", "name": name, "parameters": SCHEMA, "strict": False}
    for name in ("weather", "clock")
]
_ANTHROPIC_TOOLS = [{"name": name, "input_schema": SCHEMA} for name in ("weather", "clock")]
_GEMINI_TOOLS = [
    {
        "function_declarations": [
            {"name": name, "parameters_json_schema": SCHEMA} for name in ("weather", "clock")
        ]
    }
]


def _calling(mode: str, *names: str) -> dict[str, Any]:
    config: dict[str, Any] = {"mode": mode}
    if names:
        config["allowed_function_names"] = list(names)
    return {"config": {"tools": _GEMINI_TOOLS, "tool_config": {"function_calling_config": config}}}


# Two calls at once, and what came of them.
_CHAT_TURNS = [
    {"role": "user", "content": HI},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": f"call_{city}",
                "type": "function",
                "function": {"name": "weather", "arguments": f'{{"city":"{city}"}}'},
            }
            for city in ("Rome", "Oslo")
        ],
    },
    {"role": "tool", "tool_call_id": "call_Rome", "content": "Sun"},
    {"role": "tool", "tool_call_id": "call_Oslo", "content": "Snow"},
]
_RESPONSES_TURNS = [
    {"role": "user", "content": HI},
    *(
        {
            "type": "function_call",
            "call_id": f"call_{city}",
            "name": "weather",
            "arguments": f'{{"city":"{city}"}}',
        }
        for city in ("Rome", "Oslo")
    ),
    {"type": "function_call_output", "call_id": "call_Rome", "output": "Sun"},
    {"type": "function_call_output", "call_id": "call_Oslo", "output": "Snow"},
]


def _anthropic_turns(content: Any, **more: Any) -> list[dict[str, Any]]:
    """Return two calls and their results; `content` is that of the second one."""
    calls = [
        {"type": "tool_use", "id": f"call_{city}", "name": "weather", "input": {"city": city}}
        for city in ("Rome", "Oslo")
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "call_Rome", "content": "Sun"},
        {"type": "tool_result", "tool_use_id": "call_Oslo", "content": content, **more},
    ]
    return [
        {"role": "user", "content": HI},
        {"role": "assistant", "content": calls},
        {"role": "user", "content": results},
    ]


def _gemini_turns(response: dict[str, Any], **more: Any) -> dict[str, Any]:
    calls = [
        {"function_call": {"id": f"call_{city}", "name": "weather", "args": {"city": city}}}
        for city in ("Rome", "Oslo")
    ]
    results: list[dict[str, Any]] = [
        {"id": "call_Rome", "name": "weather", "response": {"result": "Sun"}},
        {"id": "call_Oslo", "name": "weather", "response": response, **more},
    ]
    return {
        "contents": [
            {"role": "user", "parts": [{"text": HI}]},
            {"role": "model", "parts": calls},
            {"role": "user", "parts": [{"function_response": one} for one in results]},
        ],
        "config": {"tools": _GEMINI_TOOLS},
    }


_IMAGE_OF_ANTHROPIC = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": PNG},
}
_TEXT = {"type": "text", "text": HI}
_LATER = [
    {"role": "user", "content": HI},
    {"role": "assistant", "content": "Hello"},
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Go on"},
]
_PREFILL = [{"role": "user", "content": HI}, {"role": "assistant", "content": "Once upon"}]


def _config(**said: Any) -> dict[str, Any]:
    return {"config": said}


# Feature: chat completions, Responses, Messages, Gemini.
SAID: dict[str, tuple[Said, Said, Said, Said]] = {
    "text": ({}, {}, {}, {}),
    "system prompt": (
        {"messages": [{"role": "system", "content": "Be brief."}, *_user(_TEXT)]},
        {"instructions": "Be brief."},
        {"system": "Be brief."},
        _config(system_instruction="Be brief."),
    ),
    "instructions in between": ({"messages": _LATER}, {"input": _LATER}, None, None),
    "images, base64": (
        {"messages": _user(_TEXT, {"type": "image_url", "image_url": {"url": PNG_URL}})},
        {
            "input": _user(
                {"type": "input_text", "text": HI},
                {"type": "input_image", "detail": "auto", "image_url": PNG_URL},
            )
        },
        {"messages": _user(_TEXT, _IMAGE_OF_ANTHROPIC)},
        _gemini({"text": HI}, {"inline_data": {"mime_type": "image/png", "data": PNG}}),
    ),
    "images by URL": (
        {"messages": _user(_TEXT, {"type": "image_url", "image_url": {"url": URL}})},
        {"input": _user({"type": "input_image", "detail": "auto", "image_url": URL})},
        {"messages": _user({"type": "image", "source": {"type": "url", "url": URL}})},
        _gemini({"file_data": {"mime_type": "image/png", "file_uri": URL}}),
    ),
    "PDF, base64": (
        {"messages": _user({"type": "file", "file": {"filename": "a.pdf", "file_data": PDF_URL}})},
        {"input": _user({"type": "input_file", "filename": "a.pdf", "file_data": PDF_URL})},
        {
            "messages": _user(
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                }
            )
        },
        _gemini({"inline_data": {"mime_type": "application/pdf", "data": PDF}}),
    ),
    "sound": (
        {"messages": _user({"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}})},
        None,
        None,
        _gemini({"inline_data": {"mime_type": "audio/wav", "data": WAV}}),
    ),
    "tools": (
        {"tools": _CHAT_TOOLS},
        {"tools": _RESPONSES_TOOLS},
        {"tools": _ANTHROPIC_TOOLS},
        _config(tools=_GEMINI_TOOLS),
    ),
    "tool choice: any": (
        {"tools": _CHAT_TOOLS, "tool_choice": "required"},
        {"tools": _RESPONSES_TOOLS, "tool_choice": "required"},
        {"tools": _ANTHROPIC_TOOLS, "tool_choice": {"type": "any"}},
        _calling("ANY"),
    ),
    "tool choice: one": (
        {"tools": _CHAT_TOOLS, "tool_choice": {"type": "function", "function": {"name": "clock"}}},
        {"tools": _RESPONSES_TOOLS, "tool_choice": {"type": "function", "name": "clock"}},
        {"tools": _ANTHROPIC_TOOLS, "tool_choice": {"type": "tool", "name": "clock"}},
        _calling("ANY", "clock"),
    ),
    "tool choice: none": (
        {"tools": _CHAT_TOOLS, "tool_choice": "none"},
        {"tools": _RESPONSES_TOOLS, "tool_choice": "none"},
        {"tools": _ANTHROPIC_TOOLS, "tool_choice": {"type": "none"}},
        _calling("NONE"),
    ),
    "one call at a time": (
        {"tools": _CHAT_TOOLS, "parallel_tool_calls": False},
        {"tools": _RESPONSES_TOOLS, "parallel_tool_calls": False},
        {
            "tools": _ANTHROPIC_TOOLS,
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        },
        None,
    ),
    "parallel calls and results": (
        {"tools": _CHAT_TOOLS, "messages": _CHAT_TURNS},
        {"tools": _RESPONSES_TOOLS, "input": _RESPONSES_TURNS},
        {"tools": _ANTHROPIC_TOOLS, "messages": _anthropic_turns("Snow")},
        _gemini_turns({"result": "Snow"}),
    ),
    "tool results: errors": (
        None,
        None,
        {"tools": _ANTHROPIC_TOOLS, "messages": _anthropic_turns("no such city", is_error=True)},
        _gemini_turns({"error": "no such city"}),
    ),
    "tool results: images": (
        None,
        {
            "tools": _RESPONSES_TOOLS,
            "input": [
                *_RESPONSES_TURNS[:-1],
                {
                    "type": "function_call_output",
                    "call_id": "call_Oslo",
                    "output": [{"type": "input_image", "detail": "auto", "image_url": PNG_URL}],
                },
            ],
        },
        {"tools": _ANTHROPIC_TOOLS, "messages": _anthropic_turns([_IMAGE_OF_ANTHROPIC])},
        _gemini_turns(
            {"result": "Map"}, parts=[{"inline_data": {"mime_type": "image/png", "data": PNG}}]
        ),
    ),
    "web search, beside tools": (
        None,
        {"tools": [{"type": "web_search"}, *_RESPONSES_TOOLS]},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}, *_ANTHROPIC_TOOLS]},
        _config(tools=[{"google_search": {}}, *_GEMINI_TOOLS]),
    ),
    "web search alone": (
        None,
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        _config(tools=[{"google_search": {}}]),
    ),
    "bash, editor and memory by type": (
        None,
        None,
        {"tools": [{"type": "bash_20250124", "name": "bash"}]},
        None,
    ),
    "other hosted tools": (
        None,
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
        {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]},
        _config(tools=[{"code_execution": {}}]),
    ),
    "answer by JSON schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
            }
        },
        {
            "text": {
                "format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}
            }
        },
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        _config(response_mime_type="application/json", response_json_schema=SCHEMA),
    ),
    "any JSON": (
        {"response_format": {"type": "json_object"}},
        {"text": {"format": {"type": "json_object"}}},
        None,
        _config(response_mime_type="application/json"),
    ),
    "stop sequences": (
        {"stop": ["END"]},
        None,
        {"stop_sequences": ["END"]},
        _config(stop_sequences=["END"]),
    ),
    "temperature": (
        {"temperature": 0.5},
        {"temperature": 0.5},
        {"temperature": 0.5},
        _config(temperature=0.5),
    ),
    "temperature above 1": (
        {"temperature": 1.5},
        {"temperature": 1.5},
        None,
        _config(temperature=1.5),
    ),
    "top_p": ({"top_p": 0.5}, {"top_p": 0.5}, {"top_p": 0.5}, _config(top_p=0.5)),
    "top_k": (None, None, {"top_k": 5}, _config(top_k=5)),
    "seed": ({"seed": 7}, None, None, _config(seed=7)),
    "penalties": ({"presence_penalty": 0.5}, None, None, _config(presence_penalty=0.5)),
    "logit bias": ({"logit_bias": {"50256": -100}}, None, None, None),
    "several answers": ({"n": 2}, None, None, _config(candidate_count=2)),
    "logprobs": (
        {"logprobs": True, "top_logprobs": 2},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        None,
        _config(response_logprobs=True, logprobs=2),
    ),
    "reasoning effort": (
        {"reasoning_effort": "high"},
        {"reasoning": {"effort": "high"}},
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        _config(thinking_config={"thinking_level": "HIGH"}),
    ),
    "reasoning budget": (
        None,
        None,
        {"thinking": {"type": "enabled", "budget_tokens": 2048}},
        _config(thinking_config={"thinking_budget": 2048}),
    ),
    "reasoning off": (
        {"reasoning_effort": "none"},
        {"reasoning": {"effort": "none"}},
        {"thinking": {"type": "disabled"}},
        _config(thinking_config={"thinking_budget": 0}),
    ),
    "cache markers": (
        None,
        None,
        {"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
        None,
    ),
    "beginning of the answer": (
        {"messages": _PREFILL},
        {"input": _PREFILL},
        {"messages": _PREFILL},
        None,
    ),
    "user": ({"user": "ann"}, {"safety_identifier": "ann"}, {"metadata": {"user_id": "ann"}}, None),
    "metadata": ({"metadata": {"a": "b"}}, {"metadata": {"a": "b"}}, None, None),
    "service tier": (
        {"service_tier": "flex"},
        {"service_tier": "flex"},
        {"service_tier": "standard_only"},
        None,
    ),
    "cache key": ({"prompt_cache_key": "k"}, {"prompt_cache_key": "k"}, None, None),
    "kept by the provider": ({"store": True}, {"store": True}, None, None),
    "built on what is kept": (
        None,
        {"previous_response_id": "resp_1"},
        None,
        _config(cached_content="cachedContents/1"),
    ),
}
