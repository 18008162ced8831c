"""The fields that are known within a Responses request; see `unread`.

Known is also what clients send back of an answer and what asks for nothing: ids of items, their
status. What is unknown of a tool is named where tools are read. What an earlier text rested on
(`annotations`) is read, and is nevertheless unknown: no other dialect can be told of it.
"""

from typing import Final

from tollway.providers.dialects.unread import Shape, kinds, shape

_MARK: Final = "prompt_cache_breakpoint "
_ITEM: Final = "id status created_by "
_TEXT = shape(_MARK + "text")
_CONTENT = kinds(
    input_text=_TEXT,
    text=_TEXT,
    summary_text=_TEXT,
    output_text=shape(_MARK + "text logprobs parsed"),
    refusal=shape("refusal"),
    input_image=shape(_MARK + "detail file_id image_url"),
    input_file=shape(_MARK + "file_data file_id file_url filename"),
    input_audio=shape("", input_audio=shape("data format")),
)
_MESSAGE = shape(_ITEM + "role", content=_CONTENT)
_RESULT = shape(_ITEM + "call_id name", output=_CONTENT)
_ITEMS = kinds(
    _MESSAGE,
    message=_MESSAGE,
    function_call=shape(_ITEM + "call_id name namespace arguments parsed_arguments"),
    custom_tool_call=shape(_ITEM + "call_id name namespace input"),
    function_call_output=_RESULT,
    custom_tool_call_output=_RESULT,
    reasoning=shape(_ITEM + "summary content encrypted_content"),
    additional_tools=shape(_ITEM + "role tools"),
    tool_search_output=shape(_ITEM + "call_id execution tools"),
)
KNOWN: Final[dict[str, Shape]] = {
    "input": _ITEMS,
    "tools": kinds(namespace=shape("name description tools")),
    "tool_choice": kinds(
        function=shape("name namespace"),
        custom=shape("name namespace"),
        allowed_tools=shape("mode", tools=shape("name namespace")),
    ),
    "text": shape("verbosity", format=shape("name description schema strict")),
    "reasoning": shape("effort summary generate_summary context mode"),
    "stream_options": shape("include_obfuscation"),
}
