"""The fields that are known within an Anthropic Messages request; see `unread`.

What is unknown of a tool is named where tools are read. What an earlier text rested on
(`citations`) is read, and is nevertheless unknown: no other dialect can be told of it.
"""

from typing import Final

from tollway.providers.dialects.unread import Shape, kinds, shape

_TEXT = shape("text cache_control parsed_output")
_SOURCE = shape("media_type data url file_id", content=kinds(text=_TEXT))
_SHOWN = {
    "text": _TEXT,
    "image": shape("cache_control", source=_SOURCE),
    "document": shape("title context citations cache_control", source=_SOURCE),
    "search_result": shape("source title citations cache_control", content=kinds(text=_TEXT)),
    "tool_reference": shape("tool_name cache_control"),
}
_BLOCKS = kinds(
    **_SHOWN,
    tool_use=shape("id name input cache_control"),
    thinking=shape("thinking signature"),
    redacted_thinking=shape("data"),
    compaction=shape("content cache_control"),
    tool_addition=shape("tool"),
    tool_removal=shape("tool"),
    tool_result=shape("tool_use_id is_error cache_control", content=kinds(**_SHOWN)),
)
KNOWN: Final[dict[str, Shape]] = {
    "system": _BLOCKS,
    "messages": shape("role clear_at", content=_BLOCKS),
    "tool_choice": shape("name disable_parallel_tool_use"),
    "thinking": shape("budget_tokens display block_binding"),
    "output_config": shape("effort task_budget", format=shape("schema name")),
    "output_format": shape("schema name"),
    "metadata": shape("user_id"),
}
