"""The fields beside `messages` of an Anthropic Messages request, from the neutral form."""

from collections.abc import Callable, Iterator

import msgspec

from tollway.providers.conversation import (
    Conversation,
    HostedTool,
    Thinking,
    Tool,
    ToolChoice,
    in_order,
)
from tollway.providers.dialects.anthropic_models import efforts, is_claude, takes_sampling, thinks
from tollway.providers.dialects.anthropic_said import NAME
from tollway.providers.dialects.dialect import Facts
from tollway.providers.dialects.strict_schema import Schemas, held_to, schema_of, strict
from tollway.providers.dialects.wire import (
    PLAIN_TEXT,
    described,
    has_format,
    of_object,
    one_answer,
    text_alone,
)
from tollway.providers.effort import (
    LEAST_BUDGET,
    SHARE_OF_THOUGHT,
    budget_of,
    effort_of,
    nearest,
)
from tollway.providers.errors import Untranslatable

_Fields = Iterator[tuple[str, object]]
_NO_ARGUMENTS = b'{"type":"object","properties":{}}'
_TIERS = {"auto": "auto", "default": "standard_only"}
# What Anthropic does not have, in the words of the dialects that do.
NEVER = ("min_p", "seed", "frequency_penalty", "presence_penalty", "logit_bias")


def options(
    said: Conversation, facts: Facts, dropped: list[str], tool_name: Callable[[str], str]
) -> dict[str, object]:
    """Return the fields beside the messages; what the target cannot say goes to `dropped`.

    Raises:
        Untranslatable: A tool, a schema or the kind of answer cannot be said.
    """
    if said.n > 1:
        raise one_answer(said)
    if said.modalities:
        raise text_alone(said)
    limit = facts.output_limit if facts.output_limit is not None else said.output_limit
    limit = limit if limit is not None else facts.default_output
    fields: dict[str, object] = {"max_tokens": limit}
    fields.update(_tools(said, facts, dropped, tool_name))
    thoughts = dict(thinking(said, facts, limit, dropped))
    fields.update(thoughts)
    fields.update(sampling(said, facts, dropped, thinks_on="thinking" in thoughts))
    if said.format is not None and said.format.kind != "text":
        config = fields.get("output_config")
        shaped = {"format": _format(said, facts, dropped)}
        fields["output_config"] = {**config, **shaped} if isinstance(config, dict) else shaped
    fields.update(_labels(said, dropped))
    if said.stream:
        fields["stream"] = True
    if said.by == NAME:
        fields.update((name, msgspec.Raw(text)) for name, text in said.extras)
    else:
        dropped += [name for name, _ in said.extras]
    return fields


def _tools(
    said: Conversation, facts: Facts, dropped: list[str], tool_name: Callable[[str], str]
) -> _Fields:
    choice = said.tool_choice
    allowed = choice.names if choice and choice.mode in ("auto", "any") else ()
    tools: list[object] = []
    held = strict(said.tools) if is_claude(facts.model) else None
    for tool in said.tools:
        if isinstance(tool, HostedTool):
            if tool.by == NAME and tool.type in ("mcp_servers", "container"):
                yield tool.type, msgspec.Raw(tool.payload)
            else:
                tools.append(_hosted(tool))
        elif not allowed or tool.name in allowed:
            tools.append(_tool(tool, said.by, dropped, tool_name, held))
    if not tools:
        return
    yield "tools", tools
    if choice is not None or said.parallel is not None:
        yield "tool_choice", _choice(choice or ToolChoice("auto"), said.parallel, tool_name)


def _hosted(tool: HostedTool) -> object:
    if tool.by == NAME:
        return msgspec.Raw(tool.payload)
    raise Untranslatable(
        f"The target has no tool of the type `{tool.type}`",
        hint="Leave the tool out, or call a model whose provider runs it",
        param="tools",
    )


def _tool(
    tool: Tool,
    by: str,
    dropped: list[str],
    tool_name: Callable[[str], str],
    held: Schemas | None,
) -> dict[str, object]:
    written: dict[str, object] = {"name": tool_name(tool.name)}
    if tool.description:
        written["description"] = tool.description
    if tool.kind == "custom":
        schema = PLAIN_TEXT
        if has_format(tool):
            dropped.append("tools.format")
    else:
        schema = of_object(tool.schema) or _NO_ARGUMENTS
        own = schema if held is None and tool.strict else schema_of(tool, held or {}, dropped)
        if own is not None:
            schema, written["strict"] = own, True
    written["input_schema"] = msgspec.Raw(schema)
    if tool.cache is not None:
        ttl = {"ttl": "1h"} if tool.cache == "1h" else {}
        written["cache_control"] = {"type": "ephemeral"} | ttl
    if by == NAME:
        written.update((name, msgspec.Raw(text)) for name, text in tool.extras)
    else:
        dropped += [f"tools.{name}" for name, _ in tool.extras]
    return written


def _choice(
    choice: ToolChoice, parallel: bool | None, tool_name: Callable[[str], str]
) -> dict[str, object]:
    if choice.hosted:
        raise Untranslatable(
            "The target has no such tool as `tool_choice` names", param="tool_choice"
        )
    written: dict[str, object] = {"type": choice.mode}
    if choice.mode == "tool":
        written["name"] = tool_name(choice.names[0])
    if parallel is not None and choice.mode != "none":
        written["disable_parallel_tool_use"] = not parallel
    return written


def thinking(said: Conversation, facts: Facts, limit: int, dropped: list[str]) -> _Fields:
    """Yield how long to think, within a limit of tokens, as a model of Anthropic's is told."""
    asked = said.reasoning
    if asked is None:
        return
    way = "never" if facts.thinks is False else thinks(facts.model)
    forced = said.tool_choice is not None and said.tool_choice.mode in ("any", "tool")
    if asked.mode == "off":
        if way == "adaptive":
            yield "thinking", {"type": "disabled"}
        return
    if way == "never" or (way == "budget" and (forced or _is_unthought(said))):
        dropped.append("reasoning")
        return
    display = {"display": "omitted"} if asked.summary == "none" else {}
    if way == "budget":
        budget = asked.budget if asked.budget is not None else budget_of(asked.effort)
        share, whole = SHARE_OF_THOUGHT
        budget = budget if budget < limit else limit * share // whole
        if budget < LEAST_BUDGET:
            if limit <= LEAST_BUDGET or asked.mode is None:
                dropped.append("reasoning")
                return
            budget = LEAST_BUDGET
        yield "thinking", {"type": "enabled", "budget_tokens": budget, **display}
        return
    if asked.mode is not None and not forced:
        shown = {"display": "summarized"} if asked.summary not in ("", "none") else display
        yield "thinking", {"type": "adaptive", **shown}
    effort = asked.effort or (effort_of(asked.budget) if asked.budget is not None else "")
    if effort:
        yield "output_config", {"effort": nearest(effort, efforts(facts.model))}


def _is_unthought(said: Conversation) -> bool:
    """Whether the turn to go on with has begun without thoughts that Anthropic knows.

    It refuses to be asked for thoughts then: in the middle of calls whose client gave no thoughts
    back, or behind the beginning of an answer. One thought is enough, however many calls ago:
    Claude may think once for all calls of a turn, and a turn with a thought may not go on without
    (BerriAI/litellm#18929).
    """
    turns = in_order(said.messages)
    if turns and turns[-1].role == "assistant":
        return True
    begun = spoken = False
    for message in reversed(turns):
        if message.role == "tool":
            spoken = False  # what is said behind a result does not end the turn
        elif message.role == "user":
            spoken = True
        elif message.role == "assistant":
            if spoken:
                break
            if any(isinstance(p, Thinking) and p.by == NAME for p in message.parts):
                return False
            begun = True
    return begun


def sampling(said: Conversation, facts: Facts, dropped: list[str], *, thinks_on: bool) -> _Fields:
    """Yield how the next token is drawn, as far as a model of Anthropic's lets itself be told."""
    asked = said.sampling
    takes = takes_sampling(facts.model)
    top_p, top_k = asked.top_p, asked.top_k
    temperature = _temperature(asked.temperature, dropped, takes=takes, thinks_on=thinks_on)
    # From Opus 4.1 on not both can be specified, though one be the default (BerriAI/litellm#15097).
    if top_p == 1.0 and temperature is not None:
        top_p = None
    cuts = top_p is not None and takes and (not thinks_on or top_p >= 0.95)
    if cuts and temperature in (None, 1.0):
        yield "top_p", top_p
        temperature = None
    elif top_p not in (None, 1.0):
        dropped.append("top_p")
    if temperature is not None:
        yield "temperature", temperature
    if top_k is not None:
        if takes and not thinks_on:
            yield "top_k", top_k
        else:
            dropped.append("top_k")
    dropped += asked.asks(*NEVER)
    if said.logprobs:
        dropped.append("logprobs")


def _temperature(
    asked: float | None, dropped: list[str], *, takes: bool, thinks_on: bool
) -> float | None:
    """Return the temperature that is nearest to what is asked, None where none can be said."""
    if asked is None or asked == 1.0:
        return asked if takes else None  # what is the default need not be dropped
    if not takes or thinks_on:
        dropped.append("temperature")
        return None
    if asked > 1.0:
        dropped.append("temperature above 1")
    return min(asked, 1.0)


def _format(said: Conversation, facts: Facts, dropped: list[str]) -> dict[str, object]:
    asked = said.format
    if asked is None or asked.kind != "json_schema" or not asked.schema:
        raise Untranslatable(
            "The target promises no JSON without a schema",
            hint="Give the schema: `response_format` of the type `json_schema`",
            param="response_format",
        )
    schema = asked.schema
    if is_claude(facts.model):
        schema, told = held_to(schema)
        dropped += [f"response_format.{word}" for word in told]
    schema = described(schema, asked.description)
    return {"type": "json_schema", "schema": msgspec.Raw(schema)}


def _labels(said: Conversation, dropped: list[str]) -> _Fields:
    """Yield what changes little or nothing: stop sequences, for whom it is, tiers."""
    stops = [stop for stop in said.stop if stop.strip()]
    if stops:
        yield "stop_sequences", stops
    if len(stops) < len(said.stop):
        dropped.append("stop")  # of white space alone, which Anthropic refuses
    if said.user:
        yield "metadata", {"user_id": said.user}
    if said.service_tier:
        if said.service_tier in _TIERS:
            yield "service_tier", _TIERS[said.service_tier]
        else:
            dropped.append("service_tier")
    if said.metadata:
        dropped.append("metadata")
    if said.cache_key:
        dropped.append("prompt_cache_key")
    if said.store:
        dropped.append("store")
