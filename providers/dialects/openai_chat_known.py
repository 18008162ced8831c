"""The fields that are known within a chat completion request; see `unread`.

Known is also what clients send back of an answer and what asks for nothing: places, what a
library has parsed.
"""

from typing import Final

from tollway.providers.dialects.unread import Shape, kinds, shape

_MARKS: Final = "cache_control prompt_cache_breakpoint "
_PART = kinds(
    text=shape(_MARKS + "text"),
    image_url=shape(_MARKS, image_url=shape("url detail")),
    video_url=shape(_MARKS, video_url=shape("url")),
    input_audio=shape(_MARKS, input_audio=shape("data format")),
    file=shape(_MARKS, file=shape("file_data file_id filename")),
    refusal=shape("refusal"),
    thinking=shape("thinking closed"),
)
_CALLED = shape("name arguments parsed_arguments")
_CALL = shape("id index extra_content", function=_CALLED, custom=shape("name input"))
_MESSAGE = shape(
    "role name tool_call_id refusal reasoning_content reasoning reasoning_details cache_control"
    " parsed prefix",
    audio=shape("id expires_at transcript"),
    content=_PART,
    tool_calls=_CALL,
    function_call=_CALLED,
)
_FUNCTION = shape("name description parameters strict")
_NAMED = shape("name", function=shape("name"), custom=shape("name"))
_TOOL = shape("name description parameters input_schema strict cache_control", function=_FUNCTION)
KNOWN: Final[dict[str, Shape]] = {
    "messages": _MESSAGE,
    "functions": _FUNCTION,
    "tools": kinds(
        _TOOL,
        function=_TOOL,
        custom=shape("cache_control", custom=shape("name description format")),
    ),
    "tool_choice": shape(
        "name",
        function=shape("name"),
        custom=shape("name"),
        allowed_tools=shape("mode", tools=_NAMED),
    ),
    "response_format": shape("schema", json_schema=shape("name description schema strict")),
    "stream_options": shape("include_usage include_obfuscation"),
    "reasoning": shape("effort max_tokens enabled exclude summary"),
}
