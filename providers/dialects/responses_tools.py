"""Reads the tools of a Responses request into the neutral form.

Tools within a namespace are called by both names there; elsewhere they have one, `NS__TOOL`. Tools
that came to a conversation later, in items of its input, are tools like the others elsewhere.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from tollway.providers.canon import Call
from tollway.providers.conversation import HostedTool, Tool, ToolChoice
from tollway.providers.dialects.responses_request import NAME
from tollway.providers.dialects.wire import Body, decoded
from tollway.providers.errors import RequestInvalid

_WITHIN: Final = "__"
# Items that hold tools: given by the developer, or found by a search among those of the client.
# A search among tools that the client runs; it is a function to models of others.
SEARCH: Final = "tool_search"
_OWN: Final = ("function", "custom")  # kinds of tools that the client runs
ADDS_TOOLS: Final = frozenset({"additional_tools", "tool_search_output"})


class _ToolOf(msgspec.Struct):
    type: str = "function"
    name: str | None = None
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None
    format: msgspec.Raw = msgspec.Raw()
    tools: list[msgspec.Raw] | None = None
    execution: str | None = None

    @property
    def is_search(self) -> bool:
        return self.type == SEARCH and self.execution == "client"


class _Named(msgspec.Struct):
    type: str = "function"
    name: str | None = None
    namespace: str | None = None


class _Choice(msgspec.Struct):
    type: str
    name: str | None = None
    namespace: str | None = None
    mode: str = "auto"
    tools: list[_Named] = []


class _Adding(msgspec.Struct):
    type: str = ""
    tools: list[msgspec.Raw] | None = None


_OF_TOOL = frozenset(_ToolOf.__struct_fields__)
_RAWS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_INPUT = msgspec.json.Decoder(str | list[msgspec.Raw])
_TOOLS = msgspec.json.Decoder(list[msgspec.Raw])
_TOOL = msgspec.json.Decoder(_ToolOf)
_CHOICE = msgspec.json.Decoder(str | _Choice)
_ADDING = msgspec.json.Decoder(_Adding)
_Items = str | list[msgspec.Raw] | tuple[()]


def joined_name(namespace: str | None, name: str) -> str:
    """Return the one name of a tool within a namespace, or of one without."""
    return f"{namespace}{_WITHIN}{name}" if namespace else name


def namespaces(call: Call) -> dict[str, tuple[str, str]]:
    """Return namespace and name of each tool within a namespace, by the one name it has here."""
    found: dict[str, tuple[str, str]] = {}
    body = Body(call.body)
    for raw in _all(body, body.take(_INPUT, "input") or ()):
        tool = decoded(_TOOL, raw, "tools")
        if tool.type == "namespace" and tool.name:
            for inner in tool.tools or ():
                name = decoded(_TOOL, inner, "tools").name or ""
                found[joined_name(tool.name, name)] = (tool.name, name)
    return found


def searches(call: Call) -> bool:
    """Return whether a call of a function named `SEARCH` is the client's search for tools."""
    if SEARCH.encode() not in call.body:
        return False
    body = Body(call.body)
    tools = [decoded(_TOOL, raw, "tools") for raw in _all(body, body.take(_INPUT, "input") or ())]
    named = any(tool.name == SEARCH and tool.type != "namespace" for tool in tools)
    return not named and any(tool.is_search for tool in tools)


def found_by(raw: msgspec.Raw, where: str) -> str:
    """Return what a search of the client's found, in words; the tools themselves are offered."""
    tools = _tools(decoded(_ADDING, raw, where).tools or (), ())
    names = [f"`{tool.name}`" for tool in tools if isinstance(tool, Tool)]
    return f"Found, and can be called now: {', '.join(names)}" if names else "Found no tools"


def offered(body: Body, said: _Items, choice: ToolChoice | None) -> tuple[Tool | HostedTool, ...]:
    """Return all tools, each once.

    Args:
        body: The request, whose `tools` are taken.
        said: Its `input`, some of whose items may hold more.
        choice: What may be called of them.

    Raises:
        RequestInvalid: One is none.
    """
    found: dict[object, Tool | HostedTool] = {}
    for tool in _tools(_all(body, said), choice.names if choice else ()):
        found.setdefault(tool.name if isinstance(tool, Tool) else tool, tool)
    return tuple(found.values())


def _all(body: Body, said: _Items) -> list[msgspec.Raw]:
    found = list(body.take(_TOOLS, "tools") or ())
    for place, raw in enumerate(() if isinstance(said, str) else said):
        text = bytes(raw)
        if any(kind.encode() in text for kind in ADDS_TOOLS):
            item = decoded(_ADDING, raw, f"input[{place}]")
            found += (item.tools or ()) if item.type in ADDS_TOOLS else ()
    return found


def _tools(
    said: list[msgspec.Raw] | tuple[()], shown: tuple[str, ...], within: str = ""
) -> Iterator[Tool | HostedTool]:
    for place, raw in enumerate(said):
        tool = decoded(_TOOL, raw, f"tools[{place}]")
        name = joined_name(within, tool.name or "")
        if tool.type == "function":
            schema = bytes(tool.parameters)
            yield Tool(
                name,
                tool.description or "",
                b"" if schema == b"null" else schema,
                tool.strict,
                extras=_of_tool(raw, place),
            )
        elif tool.type == "custom":
            yield Tool(
                name,
                tool.description or "",
                bytes(tool.format),
                kind="custom",
                extras=_of_tool(raw, place),
            )
        elif tool.is_search:
            schema = bytes(tool.parameters)
            yield Tool(SEARCH, tool.description or "", b"" if schema == b"null" else schema)
        elif tool.type == "namespace":
            inner = list(_tools(tool.tools or (), (), tool.name or ""))
            yield from _described(tool, inner, shown)
        else:
            yield HostedTool(NAME, tool.type, bytes(raw))


def _described(
    space: _ToolOf, tools: list[Tool | HostedTool], shown: tuple[str, ...]
) -> list[Tool | HostedTool]:
    """Return a namespace's tools; what it says of all of them stands with the first `shown`."""
    own = [tool for tool in tools if isinstance(tool, Tool)]
    first = next((tool for tool in own if tool.name in shown), own[0] if own else None)
    if not space.description or first is None:
        return tools
    about = f"Of all tools `{joined_name(space.name, '*')}`: {space.description}"
    text = f"{about}\n\n{first.description}" if first.description else about
    told = msgspec.structs.replace(first, description=text)
    return [told if tool is first else tool for tool in tools]


def _of_tool(raw: msgspec.Raw, place: int) -> tuple[tuple[str, bytes], ...]:
    """Return what of a tool only this dialect has, by name."""
    return tuple(
        (name, text)
        for name, value in decoded(_RAWS, raw, f"tools[{place}]").items()
        if name not in _OF_TOOL and (text := bytes(value)) not in (b"null", b"false")
    )


def tool_choice(body: Body) -> ToolChoice | None:
    """Return which tools may, or must, be called.

    Raises:
        RequestInvalid: It is no choice.
    """
    choice = body.take(_CHOICE, "tool_choice")
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise RequestInvalid("`tool_choice` is none that we know", param="tool_choice")
        return ToolChoice({"auto": "auto", "none": "none"}.get(choice, "any"))  # type: ignore[arg-type]
    if choice.type == "allowed_tools":
        own = [tool for tool in choice.tools if tool.type in _OWN]
        if choice.tools and not own:  # but tools of the provider's
            must = choice.mode == "required"
            return ToolChoice("tool", hosted=b"{}") if must else ToolChoice("none")
        names = tuple(joined_name(tool.namespace, tool.name or "") for tool in own)
        return ToolChoice("any" if choice.mode == "required" else "auto", names)
    if choice.type in ("function", "custom") and choice.name:
        name = joined_name(choice.namespace, choice.name)
        return ToolChoice("tool", (name,), "custom" if choice.type == "custom" else "function")
    return ToolChoice("tool", hosted=msgspec.json.encode(choice))
