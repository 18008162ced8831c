"""The most that one attempt at a Messages call can use; BOUND.md has the proof for its parts.

What is particular here: thinking has a budget, within `max_tokens` but for one beta that lets it
pass them; and a tool that the provider runs makes it read the whole input again for each of its
turns, so that only a `max_uses` bounds it, by so many context windows.
"""

from typing import Any

import msgspec

from tollway.providers.canon import Bound, Call
from tollway.providers.dialects.openai_bound import CALL, MESSAGE, PART, TOOLS, Tally, strings
from tollway.providers.dialects.wire import text_of
from tollway.providers.errors import RequestInvalid

# The instructions for a tool of Anthropic's own that the client runs: at most 735 tokens for the
# computer in its documentation.
_OWN_TOOL = 2048
_OWN_TOOLS = ("bash_", "text_editor_", "computer_", "memory_", "browser_", "str_replace_")
_TEXTS = frozenset({"text", "thinking", "redacted_thinking"})
_AWAY = frozenset({"url", "file"})
# Of the tools that may be called, from there on.
_CHANGES = frozenset({"tool_addition", "tool_removal"})
# Not part of what a model reads.
_UNPRINTED = frozenset({"model", "stream", "metadata", "max_tokens", "service_tier", "speed"})
# Fields that make a provider do more than answer; the later ones are of routers that speak this
# dialect too: dearer models, searches, stored prompts.
_RAISES = (
    *("mcp_servers", "container", "models", "plugins", "provider", "route", "preset"),
    *("fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "providerOptions"),
)
_SEARCH = "web_search_"
_BOUNDED_BY_USES = (_SEARCH, "web_fetch_")


def bound(call: Call) -> Bound:
    """Return the most that one attempt at the call can use.

    Raises:
        RequestInvalid: It is nested too deeply, a number is out of range, or a nested key
            stands twice.
    """
    body = _decode(call.body)
    if call.endpoint == "count_tokens":
        return Bound(input=0, output=0, media=False)  # free everywhere
    tally = Tally()
    tally.strings += len(body)
    tokens = CALL
    uses = searches = 0
    for key, value in body.items():
        tokens += tally.text_bytes(key)
        if key == "messages" and type(value) is list:
            tokens += sum(_message(tally, message) for message in value)
        elif key == "system":
            tokens += MESSAGE + _content(tally, value)
        elif key in _UNPRINTED:
            tally.text(value)
        else:
            tokens += tally.printed(value)
    if tools := [*_listed(body.get("tools")), *_added(body.get("messages"))]:
        more, uses, searches = _tools(tally, tools)
        tokens += more
    if tally.strings != strings(call.body):
        raise RequestInvalid("A key stands twice in an object within the request")
    named = tally.unbounded + _raises_the_bill(body)
    return Bound(
        input=tokens,
        output=_output(call, body),
        prompts=1 + uses,
        by_window=tally.by_window or uses > 0 or _goes_on(body),
        media=tally.by_window,
        searches=searches,
        service=_service(body),
        unbounded=tuple(dict.fromkeys(named)),
    )


def _goes_on(body: dict[str, Any]) -> bool:
    """Whether the provider holds more of the conversation than the request does."""
    thread = body.get("thread")
    return thread is not None and not (type(thread) is dict and thread.get("type") == "create")


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


def _message(tally: Tally, message: object) -> int:
    if type(message) is not dict:
        return MESSAGE + tally.printed(message)
    total = MESSAGE
    tally.strings += len(message)
    for key, value in message.items():
        total += tally.text_bytes(key)
        total += _content(tally, value) if key == "content" else tally.printed(value)
    return total


def _content(tally: Tally, content: object, *, result: bool = False) -> int:
    if type(content) is str:
        if not result:
            return tally.text(content)
        tally.strings += 1
        return tally.spoken_json(content)
    if type(content) is not list:
        return tally.printed(content)
    return sum(PART + _block(tally, block, result=result) for block in content)


def _block(tally: Tally, block: object, *, result: bool) -> int:
    if type(block) is not dict:
        return tally.printed(block)
    kind = text_of(block, "type")
    source = block.get("source")
    origin = text_of(source, "type") if type(source) is dict else ""
    if kind in _TEXTS:
        # Of thinking the signature holds all of it, where the text is but a summary.
        text = tally.text(block)
        total = max(text, tally.aside(block)) if result else text
    elif kind in _CHANGES:
        total = tally.printed(block)
    elif kind == "tool_use":
        total = tally.printed(block) + _name(tally, block)
    elif kind == "tool_result":
        total = _result(tally, block)
    elif origin == "text":
        total = tally.printed(block)
    else:
        # A picture, a document, the work of a tool that the provider ran: its bytes say nothing
        # of its tokens.
        total = 0
        tally.text(block)
        tally.by_window = True
        if origin in _AWAY:
            tally.unbounded.append(f"messages[].content[].{kind[:40]}")
    return total


def _name(tally: Tally, block: dict[str, Any]) -> int:
    """Return a call's name once more: templates repeat it at the result."""
    name = block.get("name")
    return tally.quoted_bytes(name) if type(name) is str else 0


def _result(tally: Tally, block: dict[str, Any]) -> int:
    total = 0
    tally.strings += len(block)
    for key, value in block.items():
        total += tally.text_bytes(key)
        inner = key == "content" and value is not None
        total += _content(tally, value, result=True) if inner else tally.printed(value)
    return total


def _listed(value: object) -> list[Any]:
    return value if type(value) is list else []


def _added(messages: object) -> list[object]:
    """Return the tools that blocks of messages define, which no `tools` hold.

    A summary of what was before has them in its `tool_changes`.
    """
    contents = (one.get("content") for one in _listed(messages) if type(one) is dict)
    blocks = [block for content in contents for block in _listed(content) if type(block) is dict]
    blocks += [inner for block in blocks for inner in _listed(block.get("tool_changes"))]
    changes = (block.get("tool") for block in blocks if type(block) is dict)
    return [one["definition"] for one in changes if type(one) is dict and "definition" in one]


def _tools(tally: Tally, tools: list[Any]) -> tuple[int, int, int]:
    """Return what tools cost beside their printed definitions, and uses and searches at most."""
    tokens, uses, searches = TOOLS, 0, 0
    for tool in tools:
        tokens += PART
        kind = tool.get("type") if type(tool) is dict else None
        if kind is None or kind == "custom":
            continue
        if type(kind) is str and kind.startswith(_OWN_TOOLS):
            tokens += _OWN_TOOL
            continue
        most = tool.get("max_uses")
        bounded = type(kind) is str and kind.startswith(_BOUNDED_BY_USES)
        if bounded and type(most) is int and 0 < most <= 1000:
            uses += most
            searches += most if str(kind).startswith(_SEARCH) else 0
        else:
            tally.unbounded.append(f"tools[].{str(kind)[:40]}")
    return tokens, uses, searches


def _output(call: Call, body: dict[str, Any]) -> int | None:
    """Return the output limit; a thinking budget past it is added, as interleaved thinking is."""
    limit = call.output_limit
    thinking = body.get("thinking")
    budget = thinking.get("budget_tokens") if type(thinking) is dict else None
    if limit is None or type(budget) is not int or budget < limit:
        return limit
    return limit + budget


def _service(body: dict[str, Any]) -> str:
    """Return the service tier asked for; the fast one has a field of its own."""
    if body.get("speed") not in (None, "standard"):
        return str(body["speed"])
    tier = body.get("service_tier")
    # "auto" may use capacity that was bought beforehand, at no other price; it is never fast.
    return tier if type(tier) is str and tier not in ("", "auto") else "standard"


def _raises_the_bill(body: dict[str, Any]) -> list[str]:
    named = [name for name in _RAISES if body.get(name)]
    thinking = body.get("thinking")
    budget = thinking.get("budget_tokens") if type(thinking) is dict else None
    if budget is not None and type(budget) is not int:
        named.append("thinking.budget_tokens")  # a provider may read more into it than we do
    if body.get("inference_geo") not in (None, "global"):
        named.append("inference_geo")  # its own prices
    managed = body.get("context_management")
    edits = managed.get("edits") if type(managed) is dict else None
    for one in edits if type(edits) is list else ():
        kind = one.get("type") if type(one) is dict else None
        if not (type(kind) is str and kind.startswith("clear_")):
            named.append("context_management")  # a summary is written, and billed
    return named
