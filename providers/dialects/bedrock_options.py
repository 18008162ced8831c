"""The fields beside `messages` of a Converse request, from the neutral form."""

import re
from collections.abc import Callable, Iterator

import msgspec

from tollway.providers.conversation import (
    Conversation,
    HostedTool,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from tollway.providers.dialects import anthropic_options as anthropic
from tollway.providers.dialects.dialect import Facts
from tollway.providers.dialects.schema_refs import inlined
from tollway.providers.dialects.strict_schema import Schemas, held_to, schema_of, strict
from tollway.providers.dialects.tiers import UNSAID
from tollway.providers.dialects.wire import (
    PLAIN_TEXT,
    has_format,
    of_object,
    one_answer,
    text_alone,
)
from tollway.providers.effort import effort_of, nearest
from tollway.providers.errors import Untranslatable

_NO_ARGUMENTS = b'{"type":"object","properties":{}}'
_NO_TOOL = {
    "name": "no_tool",
    "description": "Not a tool: there is none to call now. Answer in words.",
    "inputSchema": {"json": msgspec.Raw(_NO_ARGUMENTS)},
}
# Where Claude says which sequence stopped it, if that is asked for (API reference of Converse).
SEQUENCE = "/stop_sequence"
# "This model doesn't support the stopSequences field" (crewAIInc/crewAI#3317,
# langgenius/dify-official-plugins#1767, langchain-ai/langchain-aws#664).
_NO_STOPS = re.compile(r"(?:.*[./])?(?:openai\.gpt-oss|qwen\.|deepseek\.v3)")
_MOST_STOPS = 4  # of most models; Claude takes many
_CLAUDE = re.compile(r"(?:.*[./])?anthropic\.(claude-.*?)(?:-v\d+)?(?::\d+)*$")
_NOVA = re.compile(r"(?:.*[./])?amazon\.nova-")
_NOVA_THINKS = re.compile(r"(?:.*[./])?amazon\.nova-2-")
_GPT = re.compile(r"(?:.*[./])?openai\.gpt-")
# "This model doesn't support the toolConfig.toolChoice.any field" is what Llama answers
# (strands-agents/harness-sdk#1241), and Mistral's of "toolChoice.tool" (reference of `ToolChoice`).
_NEVER_MUST = re.compile(r"(?:.*[./])?meta\.llama")
_MUST_ANY = re.compile(r"(?:.*[./])?mistral\.")
# What nobody can tell not to: gpt-oss has no such effort, the others have no word for it.
_ALWAYS_THINKS = re.compile(
    r"(?:.*[./])?(?:openai\.gpt-oss|deepseek\.r1|moonshot\.kimi-k2-thinking|minimax\.minimax-m2)"
)
_EFFORTS = ("low", "medium", "high")
_TIERS = frozenset({"priority", "default", "flex", "reserved"})
# Fields of Converse's own that any client may send: no dialect of theirs has such a thing.
_OWN = frozenset({"guardrailConfig"})
_Fields = Iterator[tuple[str, object]]


def claude(model: str) -> str:
    """Return what Anthropic calls a model of theirs, "" for anybody else's."""
    found = _CLAUDE.match(model)
    return found[1] if found else ""


def options(
    said: Conversation,
    facts: Facts,
    dropped: list[str],
    tool_name: Callable[[str], str],
    *,
    point: Callable[[str], dict[str, object]] | None,
) -> dict[str, object]:
    """Return the fields beside the messages; what the target cannot say goes to `dropped`.

    Raises:
        Untranslatable: A tool, a schema or the kind of answer cannot be said.
    """
    if said.n > 1:
        raise one_answer(said)
    if said.modalities:
        raise text_alone(said)
    body: dict[str, object] = {}
    own = claude(facts.model)
    limit = facts.output_limit if facts.output_limit is not None else said.output_limit
    if limit is None and own:
        limit = facts.default_output  # its budget for thoughts must be below it
    config: dict[str, object] = {} if limit is None else {"maxTokens": limit}
    config.update(_stops(said, facts.model, dropped))
    more = dict(_claudes(said, facts, limit or 0, own, dropped) if own else ())
    if not own:
        more = dict(_others(said, facts, dropped))
    for there, here in (("temperature", "temperature"), ("top_p", "topP")):
        if there in more:
            config[here] = more.pop(there)
    if config:
        body["inferenceConfig"] = config
    if own and "stopSequences" in config:
        body["additionalModelResponseFieldPaths"] = [SEQUENCE]
    shape = dict(_shape(said, dropped))
    if isinstance(effort := more.pop("output_config", None), dict):
        shape.update(effort)
    if shape:
        body["outputConfig"] = shape
    if more:
        body["additionalModelRequestFields"] = more
    said = msgspec.structs.replace(said, tool_choice=_taken(said, facts.model, dropped))
    body.update(_tools(said, dropped, tool_name, point, plain=bool(_NOVA.match(facts.model))))
    body.update(_labels(said, dropped))
    return body


def _stops(said: Conversation, model: str, dropped: list[str]) -> _Fields:
    stops = [stop for stop in said.stop if stop.strip() and not _NO_STOPS.match(model)]
    most = len(stops) if claude(model) else _MOST_STOPS
    if stops:
        yield "stopSequences", stops[:most]
    if len(stops) < len(said.stop) or len(stops) > most:
        dropped.append("stop")


def _claudes(said: Conversation, facts: Facts, limit: int, own: str, dropped: list[str]) -> _Fields:
    """Yield what Claude is told beside Converse's own fields: all as at Anthropic."""
    named = msgspec.structs.replace(facts, model=own)
    thinking = dict(anthropic.thinking(said, named, limit, dropped))
    yield from thinking.items()
    yield from anthropic.sampling(said, named, dropped, thinks_on="thinking" in thinking)


def _others(said: Conversation, facts: Facts, dropped: list[str]) -> _Fields:
    asked = said.sampling
    if asked.temperature is not None:
        if asked.temperature > 1:
            dropped.append("temperature above 1")
        yield "temperature", min(asked.temperature, 1.0)
    if asked.top_p is not None:
        yield "top_p", asked.top_p
    if asked.top_k is not None:
        if _NOVA.match(facts.model):
            yield "inferenceConfig", {"topK": asked.top_k}
        else:
            dropped.append("top_k")
    dropped += asked.asks(*anthropic.NEVER)
    if said.logprobs:
        dropped.append("logprobs")
    reasoning = said.reasoning
    if reasoning is None:
        return
    if reasoning.mode == "off":
        dropped += ["reasoning.off"] if _ALWAYS_THINKS.match(facts.model) else []
        return
    effort = reasoning.effort or (effort_of(reasoning.budget) if reasoning.budget else "medium")
    word = nearest(effort, _EFFORTS)
    if _NOVA_THINKS.match(facts.model):
        yield "reasoningConfig", {"type": "enabled", "maxReasoningEffort": word}
    elif _GPT.match(facts.model):
        yield "reasoning_effort", word
    else:
        dropped.append("reasoning")


def _shape(said: Conversation, dropped: list[str]) -> _Fields:
    asked = said.format
    if asked is None or asked.kind == "text":
        return
    if asked.kind != "json_schema" or not asked.schema:
        raise Untranslatable(
            "The target promises no JSON without a schema",
            hint="Give the schema: `response_format` of the type `json_schema`",
            param="response_format",
        )
    text, told = held_to(asked.schema)
    dropped += [f"response_format.{word}" for word in told]
    schema: dict[str, object] = {"schema": text.decode()}  # as text, not as JSON
    if asked.name:
        schema["name"] = asked.name
    if asked.description:
        schema["description"] = asked.description
    yield "textFormat", {"type": "json_schema", "structure": {"jsonSchema": schema}}


def _tools(
    said: Conversation,
    dropped: list[str],
    tool_name: Callable[[str], str],
    point: Callable[[str], dict[str, object]] | None,
    *,
    plain: bool,
) -> _Fields:
    choice = said.tool_choice
    if choice is not None and choice.hosted:
        raise Untranslatable(
            "The target has no such tool as `tool_choice` names", param="tool_choice"
        )
    if (choice is not None and choice.mode == "none") or not said.tools:
        # No tool is offered, so none is called. Where calls and results stand in the turns, it
        # takes the request only with some tool beside them.
        if any(isinstance(part, ToolCall | ToolResult) for m in said.messages for part in m.parts):
            yield "toolConfig", {"tools": [{"toolSpec": _NO_TOOL}]}
        return
    allowed = choice.names if choice else ()
    tools: list[object] = []
    held = strict(said.tools)
    for tool in said.tools:
        if isinstance(tool, HostedTool):
            raise Untranslatable(
                f"The target has no tool of the type `{tool.type}`",
                hint="Leave the tool out, or call a model whose provider runs it",
                param="tools",
            )
        if allowed and tool.name not in allowed and choice and choice.mode != "tool":
            continue
        tools.append({"toolSpec": _tool(tool, dropped, tool_name, held, plain=plain)})
        if tool.cache is not None and point is not None:
            tools.append(point(tool.cache))
        elif tool.cache is not None:
            dropped.append("cache_control")
    if not tools:
        return
    config: dict[str, object] = {"tools": tools}
    if choice is not None:
        config["toolChoice"] = _choice(choice, tool_name)
    if said.parallel is False:
        dropped.append("parallel_tool_calls")
    yield "toolConfig", config


def _taken(said: Conversation, model: str, dropped: list[str]) -> ToolChoice | None:
    """Return the choice of a tool as a model takes it: the one that must be called stands alone."""
    choice = said.tool_choice
    if choice is None or choice.mode not in ("any", "tool") or not said.tools:
        return choice
    if _NEVER_MUST.match(model):
        dropped.append("tool_choice")
        return msgspec.structs.replace(choice, mode="auto")
    if _MUST_ANY.match(model):
        return msgspec.structs.replace(choice, mode="any")
    return choice


def _choice(choice: ToolChoice, tool_name: Callable[[str], str]) -> dict[str, object]:
    if choice.mode == "tool":
        return {"tool": {"name": tool_name(choice.names[0])}}
    return {choice.mode: {}}


def _tool(
    tool: Tool,
    dropped: list[str],
    tool_name: Callable[[str], str],
    held: Schemas,
    *,
    plain: bool,
) -> dict[str, object]:
    dropped += [f"tools.{name}" for name, _ in tool.extras]
    written: dict[str, object] = {"name": tool_name(tool.name)}
    if tool.description:
        written["description"] = tool.description
    if has_format(tool):
        dropped.append("tools.format")
    schema = PLAIN_TEXT if tool.kind == "custom" else of_object(tool.schema) or _NO_ARGUMENTS
    if tool.kind != "custom" and (own := schema_of(tool, held, dropped)) is not None:
        schema, written["strict"] = own, True
    if plain:  # "extraneous key [$defs] is not permitted" (lastmile-ai/mcp-agent#126)
        schema, says_less = inlined(schema)
        dropped += ["tools.parameters.$ref"] if says_less else []
    written["inputSchema"] = {"json": msgspec.Raw(schema)}
    return written


def _labels(said: Conversation, dropped: list[str]) -> _Fields:
    """Yield the service tier and Converse's own fields; name what there is no place for."""
    if said.service_tier in _TIERS:
        yield "serviceTier", {"type": said.service_tier}
    elif said.service_tier not in UNSAID:
        dropped.append("service_tier")
    for name, value in (
        ("user", said.user),
        ("metadata", said.metadata),
        ("prompt_cache_key", said.cache_key),
        ("store", said.store),
    ):
        if value:
            dropped.append(name)
    for name, text in said.extras:
        if name in _OWN:
            yield name, msgspec.Raw(text)
        else:
            dropped.append(name)
