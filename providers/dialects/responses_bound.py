"""The most that one attempt at a Responses call can use; BOUND.md has the proof for its parts.

What is particular here: a provider keeps state, so a request may stand for more than it says.
An earlier response, a conversation or a stored prompt is bounded by the context window alone. A
tool that the provider runs makes it read the whole input again for each of its turns, so that
nothing bounds it.
"""

from typing import Any

import msgspec

from tollway.providers.canon import Bound, Call
from tollway.providers.dialects.openai_bound import (
    CALL,
    MESSAGE,
    PART,
    TOOLS,
    Tally,
    is_elsewhere,
    raising,
    strings,
)
from tollway.providers.errors import RequestInvalid

_TEXT_PARTS = frozenset(
    {"input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"}
)
# Items whose content is all in the request, as text that templates print.
_PRINTED_ITEMS = frozenset(
    {
        *("function_call", "custom_tool_call", "reasoning"),
        *("local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output"),
        *("apply_patch_call", "apply_patch_call_output", "tool_search_call", "tool_search_output"),
    }
)
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})
# Tools that the client runs: they cost the tokens of their definitions.
_OWN_TOOLS = frozenset(
    {None, "function", "custom", "namespace", "local_shell", "apply_patch", "tool_search"}
)
# Fields whose content only the provider knows; its context window bounds the input all the same.
_KEPT = ("previous_response_id", "conversation")
# Fields that make the provider do more than answer once.
_RAISES = ("background", "prompt", "context_management", "moderation")
# Not part of what a model reads.
_UNPRINTED = frozenset({"model", "stream", "stream_options", "metadata", "client_metadata"})


def bound(call: Call) -> Bound:
    """Return the most that one attempt at the call can use.

    Raises:
        RequestInvalid: It is nested too deeply, a number is out of range, or a nested key
            stands twice.
    """
    body = _decode(call.body)
    tally = Tally()
    tally.strings += len(body)
    tokens = CALL
    for key, value in body.items():
        tokens += tally.text_bytes(key)
        if key == "input":
            tokens += _input(tally, value)
        elif key == "instructions" and type(value) is str:
            tokens += MESSAGE + tally.text(value)
        elif key in _UNPRINTED:
            tally.text(value)
        else:
            tokens += tally.printed(value)
            if key == "tools" and value:
                tokens += TOOLS + _tools(value)
    if tally.strings != strings(call.body):
        raise RequestInvalid("A key stands twice in an object within the request")
    counts = call.endpoint == "count_tokens"
    # The short form of a conversation has no limit that a request could set.
    without_end = ["compact"] if call.endpoint == "compact" else []
    return Bound(
        input=tokens,
        output=0 if counts else call.output_limit,
        by_window=tally.by_window or any(body.get(name) is not None for name in _KEPT),
        service=_service(body),
        unbounded=tuple(dict.fromkeys(tally.unbounded + _raises_the_bill(body) + without_end)),
    )


def _decode(text: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(text)
    except RecursionError:
        raise RequestInvalid("The request's body is nested too deeply") from None
    except (msgspec.DecodeError, ValueError) as fault:
        raise RequestInvalid(f"The request's body is not JSON: {fault}") from None
    if not isinstance(body, dict):
        raise RequestInvalid("The request's body must be a JSON object")
    return body


def _input(tally: Tally, said: object) -> int:
    if type(said) is str:
        return MESSAGE + tally.text(said)
    if type(said) is not list:
        return tally.printed(said)
    return sum(MESSAGE + _item(tally, item) for item in said)


def _item(tally: Tally, item: object) -> int:
    if type(item) is not dict:
        return tally.printed(item)
    kind = item.get("type") or "message"
    if type(kind) is not str:
        kind = ""
    if kind == "message":
        return _message(tally, item)
    if kind in _OUTPUTS:
        return _output(tally, item)
    if kind == "item_reference" or kind not in _PRINTED_ITEMS:
        # What the provider kept, or the work of a tool that it ran: not all of it is here.
        tally.by_window = True
    if "tools" in item:
        tally.unbounded += _hosted(item["tools"], "input[].tools[]")
    total = PART + tally.printed(item)
    if type(name := item.get("name")) is str:
        total += tally.quoted_bytes(name)  # templates repeat it at the result
    for name in ("arguments", "input"):
        if type(text := item.get(name)) is str:
            strings_ = tally.strings
            total += tally.spoken_json(text)
            tally.strings = strings_
    return total


def _message(tally: Tally, item: dict[str, Any]) -> int:
    total = 0
    tally.strings += len(item)
    for key, value in item.items():
        total += tally.text_bytes(key)
        if key == "content" and type(value) is list:
            total += sum(PART + _part(tally, part) for part in value)
        elif value is not None:
            total += tally.text(value) if type(value) is str else tally.printed(value)
    return total


def _output(tally: Tally, item: dict[str, Any]) -> int:
    total = PART
    tally.strings += len(item)
    for key, value in item.items():
        total += tally.text_bytes(key)
        if key != "output":
            total += tally.printed(value)
        elif type(value) is str:
            tally.strings += 1
            total += tally.spoken_json(value)
        elif type(value) is list:
            total += sum(PART + _part(tally, part) for part in value)
        else:
            total += tally.printed(value)
    return total


def _part(tally: Tally, part: object) -> int:
    kind = part.get("type") if type(part) is dict else None
    if type(kind) is str and kind in _TEXT_PARTS:
        return max(tally.text(part), tally.aside(part))
    # Not text: its bytes say nothing of its tokens.
    tally.text(part)
    tally.by_window = True
    if is_elsewhere(part):
        tally.unbounded.append(f"input[].content[].{str(kind)[:40]}")
    return 0


def _tools(tools: object) -> int:
    if type(tools) is not list:
        return PART
    within = sum(
        len(inner)
        for tool in tools
        if type(tool) is dict and type(inner := tool.get("tools")) is list
    )
    return PART * (len(tools) + within)


def _service(body: dict[str, Any]) -> str:
    tier = body.get("service_tier")
    return tier if type(tier) is str and tier else "auto"


def _raises_the_bill(body: dict[str, Any]) -> list[str]:
    named = [name for name in _RAISES if body.get(name) not in (None, False, [], {})]
    named += raising(body)
    return named + _hosted(body.get("tools"))


def _hosted(tools: object, where: str = "tools[]") -> list[str]:
    """Return the tools that the provider runs, those within a namespace too."""
    named: list[str] = []
    for tool in tools if type(tools) is list else ():
        kind = tool.get("type") if type(tool) is dict else tool
        if not isinstance(kind, str | None) or kind not in _OWN_TOOLS:
            named.append(f"{where}.{str(kind)[:40]}")
        elif type(tool) is dict and "tools" in tool:
            within = tool["tools"]
            for inner in within if type(within) is list else ():
                kind = inner.get("type") if type(inner) is dict else inner
                if kind not in (None, "function", "custom"):
                    named.append(f"{where}.tools[].{str(kind)[:40]}")
    return named
