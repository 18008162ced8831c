"""The fields beside `messages` of a chat completion request, from the neutral form."""

from collections.abc import Callable, Iterator

import msgspec

from tollway.providers.conversation import (
    Conversation,
    Format,
    HostedTool,
    Reasoning,
    Tool,
    ToolChoice,
)
from tollway.providers.dialects import openai_quirks as quirk
from tollway.providers.dialects.dialect import Facts
from tollway.providers.dialects.openai_chat_parts import NAME
from tollway.providers.dialects.openai_chat_said import HOSTED
from tollway.providers.dialects.openai_models import reasons, takes_sampling
from tollway.providers.dialects.openai_strict import bare, held
from tollway.providers.dialects.tiers import UNSAID
from tollway.providers.dialects.wire import (
    PLAIN_TEXT,
    has_format,
    object_in,
    of_object,
    stays_strict,
    text_alone,
)
from tollway.providers.effort import effort_of, nearest
from tollway.providers.errors import Untranslatable

_Fields = Iterator[tuple[str, object]]
_NO_ARGUMENTS = b'{"type":"object","properties":{}}'
_TIERS = frozenset({"auto", "default", "flex", "priority", "scale"})
_NOT_WITH_REASONING = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
)
# The words that every reasoning model knows; some know "minimal", "xhigh" or "max" too.
_COMMON = ("low", "medium", "high")
# DeepSeek's (guide to thinking mode), beside its switch; "medium" is one that it knows as "high".
_SWITCHED = ("low", "medium", "high", "max")
# OpenRouter's, of which it tells each model what that knows (its own library).
_OF_OBJECT = ("minimal", "low", "medium", "high", "xhigh", "max")
# OpenAI takes no longer `user` or `prompt_cache_key`, nor does who passes them on to it
# (elizaOS/eliza#31720, of OpenRouter).
_LONGEST_NAME = 64
_MOST_STOPS = 4
# To these the tool that must be called is the only one.
_ONE_ALONE = frozenset({quirk.CHOICE_IN_WORDS, quirk.IGNORES_CHOICE})


def options(
    said: Conversation, facts: Facts, dropped: list[str], tool_name: Callable[[str], str]
) -> dict[str, object]:
    """Return the fields beside the messages; what the target cannot say goes to `dropped`.

    Raises:
        Untranslatable: A tool, a schema or the kind of answer cannot be said.
    """
    fields: dict[str, object] = {}
    fields.update(_tools(said, facts.quirks, dropped, tool_name))
    fields.update(_answer(said, facts, dropped))
    sampling = dict(_sampling(said, facts.quirks, dropped))
    asked = said.reasoning is not None and said.reasoning.mode != "off"
    if quirk.ALL_OF_OPENAI in facts.quirks and not takes_sampling(
        facts.model, asked_to_reason=asked
    ):
        _leave_out(sampling, fields, dropped)
    fields.update(sampling)
    if said.reasoning is not None and facts.efforts is not None:
        fields.update(_in_words(said.reasoning, facts.efforts, dropped))
    elif said.reasoning is not None:
        fields.update(_reasoning(said, said.reasoning, facts, dropped))
    fields.update(_labels(said, facts.quirks, dropped))
    if said.stream:
        fields["stream"] = True
        if quirk.is_asked_for_usage(facts.quirks):
            fields["stream_options"] = {"include_usage": True}
    if said.by == NAME:
        fields.update((name, msgspec.Raw(text)) for name, text in said.extras)
    else:
        dropped += [name for name, _ in said.extras]
    return fields


def _leave_out(sampling: dict[str, object], fields: dict[str, object], dropped: list[str]) -> None:
    """Take out what OpenAI's reasoning models refuse, if it is not the default anyway."""
    for name in _NOT_WITH_REASONING:
        default = 0.0 if name.endswith("penalty") else 1.0
        if sampling.pop(name, default) != default:
            dropped.append(name)
    if fields.pop("stop", None):
        dropped.append("stop")


def _tools(
    said: Conversation,
    quirks: frozenset[str],
    dropped: list[str],
    tool_name: Callable[[str], str],
) -> _Fields:
    choice = said.tool_choice
    if choice is not None and choice.mode == "none" and quirk.IGNORES_CHOICE in quirks:
        return
    hosted = [tool for tool in said.tools if isinstance(tool, HostedTool)]
    for tool in hosted:
        if tool.by == NAME == said.by and tool.type in HOSTED:
            yield tool.type, msgspec.Raw(tool.payload)
    own = quirk.ALL_OF_OPENAI in quirks
    allowed = choice.names if choice and (choice.mode != "tool" or quirks & _ONE_ALONE) else ()
    tools = [
        _tool(tool, quirks, dropped, tool_name)
        for tool in bare(said.tools)
        if not (isinstance(tool, HostedTool) and tool.by == NAME and tool.type in HOSTED)
        if own or not allowed or not isinstance(tool, Tool) or tool.name in allowed
    ]
    if not tools:
        return
    yield "tools", tools
    if quirk.IGNORES_CHOICE in quirks:
        dropped += ["tool_choice"] if choice is not None and choice.mode != "auto" else []
        dropped += ["parallel_tool_calls"] if said.parallel is False else []
        return
    if choice is not None:
        words = quirk.CHOICE_IN_WORDS in quirks
        yield "tool_choice", _choice(choice, own=own, words=words, tool_name=tool_name)
    if said.parallel is not None:
        yield "parallel_tool_calls", said.parallel


def _tool(
    tool: Tool | HostedTool,
    quirks: frozenset[str],
    dropped: list[str],
    tool_name: Callable[[str], str],
) -> dict[str, object]:
    if isinstance(tool, HostedTool):
        if tool.by == NAME:
            return msgspec.json.decode(tool.payload, type=dict[str, object])
        raise Untranslatable(
            f"The target has no tool of the type `{tool.type}`",
            hint="Leave the tool out, or call a model whose provider runs it",
            param="tools",
        )
    dropped += [f"tools.{name}" for name, _ in tool.extras]
    mark: dict[str, object] = {}
    if tool.cache is not None and quirk.CACHE_CONTROL in quirks:
        mark["cache_control"] = {"type": "ephemeral"} | (
            {"ttl": "1h"} if tool.cache == "1h" else {}
        )
    elif tool.cache is not None:
        dropped.append("cache_control")
    function: dict[str, object] = {"name": tool_name(tool.name)}
    if tool.description:
        function["description"] = tool.description
    if tool.kind == "custom":
        if quirk.ALL_OF_OPENAI in quirks:
            if tool.schema:
                function["format"] = msgspec.Raw(tool.schema)
            return {"type": "custom", "custom": function, **mark}
        if has_format(tool):
            dropped.append("tools.format")
        return {
            "type": "function",
            "function": {**function, "parameters": msgspec.Raw(PLAIN_TEXT)},
            **mark,
        }
    function["parameters"] = msgspec.Raw(_with_properties(tool.schema))
    if tool.strict is not None:
        function["strict"] = stays_strict(tool, dropped)
    return {"type": "function", "function": function, **mark}


def _with_properties(schema: bytes) -> bytes:
    """Return a schema that OpenAI takes: it refuses an object that lists no properties."""
    if not schema:
        return _NO_ARGUMENTS
    schema = of_object(schema)
    if b'"properties"' in schema or (said := object_in(schema)) is None:
        return schema
    return (
        msgspec.json.encode({**said, "properties": {}}) if said.get("type") == "object" else schema
    )


def _choice(
    choice: ToolChoice, *, own: bool, words: bool, tool_name: Callable[[str], str]
) -> object:
    if choice.hosted:
        raise Untranslatable(
            "The target has no such tool as `tool_choice` names", param="tool_choice"
        )
    if choice.mode == "tool" and words:
        return "required"
    if choice.mode == "tool":
        kind = choice.kind if own else "function"
        return {"type": kind, kind: {"name": tool_name(choice.names[0])}}
    mode = {"auto": "auto", "any": "required", "none": "none"}[choice.mode]
    if choice.names and own:
        tools = [{"type": "function", "function": {"name": tool_name(n)}} for n in choice.names]
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}
    return mode


def _answer(said: Conversation, facts: Facts, dropped: list[str]) -> _Fields:
    """Yield what is asked of the answer: its shape, length, number, likelihoods."""
    limit = facts.output_limit if facts.output_limit is not None else said.output_limit
    if limit is not None:
        yield quirk.limit_field(facts.quirks, "chat"), limit
    if said.format is not None and said.format.kind != "text":
        yield "response_format", _format(said.format, facts.quirks)
    if said.stop:
        most = _MOST_STOPS if quirk.ALL_OF_OPENAI in facts.quirks else len(said.stop)
        yield "stop", list(said.stop[:most])
        if len(said.stop) > most:
            dropped.append("stop")
    if said.n != 1:
        yield "n", said.n
    if said.logprobs:
        yield "logprobs", True
        if said.top_logprobs is not None:
            yield "top_logprobs", said.top_logprobs
    if said.modalities:
        if said.by != NAME:
            raise text_alone(said)
        yield "modalities", list(said.modalities)


def _format(asked: Format, quirks: frozenset[str]) -> dict[str, object]:
    if asked.kind == "json_schema" and quirk.NO_SCHEMAS in quirks:
        raise Untranslatable(
            "The target holds no answer to a schema",
            hint="Ask for any JSON, or give the schema to a tool that must be called",
            param="response_format",
        )
    if asked.kind == "json_object" and quirk.JSON_BY_SCHEMA in quirks:
        asked = Format("json_schema", b'{"type":"object"}')
    if asked.kind == "json_object":
        return {"type": "json_object"}
    schema: dict[str, object] = {"name": asked.name or "answer"}
    if asked.description:
        schema["description"] = asked.description
    text, strict = held(asked)
    if text:
        schema["schema"] = msgspec.Raw(text)
    if strict is not None:
        schema["strict"] = strict
    return {"type": "json_schema", "json_schema": schema}


def _sampling(said: Conversation, quirks: frozenset[str], dropped: list[str]) -> _Fields:
    asked = said.sampling
    if asked.seed is not None:
        yield ("random_seed" if quirk.RANDOM_SEED in quirks else "seed"), asked.seed
    for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty"):
        if (value := getattr(asked, name)) is not None:
            yield name, value
    for name in ("top_k", "min_p"):
        if (value := getattr(asked, name)) is None:
            continue
        if quirk.MORE_SAMPLING in quirks:
            yield name, value
        else:
            dropped += asked.asks(name)
    if asked.logit_bias:
        yield "logit_bias", msgspec.Raw(asked.logit_bias)


def _reasoning(said: Conversation, asked: Reasoning, facts: Facts, dropped: list[str]) -> _Fields:
    quirks = facts.quirks
    off = asked.mode == "off"
    own = quirk.ALL_OF_OPENAI in quirks and said.by.startswith("openai")
    known: tuple[str, ...] = _SWITCHED if quirk.THINKING_SWITCH in quirks else _COMMON
    known = _OF_OBJECT if quirk.REASONING_OBJECT in quirks else known
    effort = _effort(asked, known, own=own)
    if asked.effort not in ("", effort) and not off:
        dropped.append("reasoning.effort")
    if asked.summary and quirk.REASONING_OBJECT not in quirks:
        dropped.append("reasoning.summary")
    if not _may_think(facts):
        if not off:
            dropped.append("reasoning")
    elif quirk.REASONING_OBJECT in quirks:
        yield "reasoning", _object(asked, effort)
    elif quirk.THINKING_SWITCH in quirks:
        yield "thinking", {"type": "disabled" if off else "enabled"}
        if effort and not off:
            yield "reasoning_effort", effort
    elif quirk.TEMPLATE_SWITCH in quirks:
        # Qwen's and GLM's templates have the one name, DeepSeek's, Kimi's and Granite's the other.
        yield "chat_template_kwargs", {"enable_thinking": not off, "thinking": not off}
        if effort and not off:
            yield "reasoning_effort", effort
    elif off:
        # OpenAI's older models have no such word; that nothing is said is nearest to it.
        dropped.append("reasoning.off")
    elif effort:
        yield "reasoning_effort", effort


def _in_words(asked: Reasoning, known: tuple[str, ...], dropped: list[str]) -> _Fields:
    """Yield how long to think in the words that a model knows: none at all, some, or but one.

    To think where it would not of itself is said even where nothing is said of how long.
    """
    levels = tuple(word for word in known if word not in ("none", "default"))
    if asked.summary:
        dropped.append("reasoning.summary")
    if asked.mode == "off":
        if "none" in known:
            yield "reasoning_effort", "none"
        else:
            dropped.append("reasoning.off")
    elif not known:
        dropped.append("reasoning")
    elif "default" in known:
        yield "reasoning_effort", "default"
    elif effort := asked.effort or (effort_of(asked.budget) if asked.budget is not None else ""):
        if levels:
            yield "reasoning_effort", nearest(effort, levels)
        else:
            dropped.append("reasoning.effort")
    elif levels and asked.mode == "on" and "none" in known:
        yield "reasoning_effort", nearest("medium", levels)


def _may_think(facts: Facts) -> bool:
    """Whether a target can be asked to think; one of which nothing is known can."""
    if facts.thinks is None and quirk.ALL_OF_OPENAI in facts.quirks:
        return reasons(facts.model)
    return facts.thinks is not False and quirk.NO_REASONING not in facts.quirks


def _effort(asked: Reasoning, known: tuple[str, ...], *, own: bool) -> str:
    """Return the word for how long to think, of those `known` there; "" where none is said.

    `own` words are OpenAI's, for OpenAI: which of its models knows which, the caller knows.
    """
    if not asked.effort:
        return nearest(effort_of(asked.budget), known) if asked.budget is not None else ""
    return asked.effort if own else nearest(asked.effort, known)


def _object(asked: Reasoning, effort: str) -> dict[str, object]:
    if asked.mode == "off":
        return {"enabled": False}
    shown: dict[str, object] = {"summary": asked.summary} if asked.summary else {}
    if asked.summary == "none":
        shown = {"exclude": True}
    if asked.budget is not None:
        return {"max_tokens": asked.budget, **shown}
    return {"effort": effort, **shown} if effort else {"enabled": True, **shown}


def _labels(said: Conversation, quirks: frozenset[str], dropped: list[str]) -> _Fields:
    """Yield what changes no answer: for whom it is, labels, tiers, cache keys."""
    own = quirk.ALL_OF_OPENAI in quirks
    tier = said.service_tier
    usual = quirk.STANDARD_ONLY in quirks and tier == "default"

    def takes(name: str) -> bool:
        return own or name in quirks

    labels, key = msgspec.Raw(said.metadata) if said.metadata else None, said.cache_key
    fields: tuple[tuple[str, object, bool], ...] = (
        (quirk.USER, said.user, takes(quirk.USER) and len(said.user) <= _LONGEST_NAME),
        # OpenAI's are of what it keeps.
        (quirk.METADATA, labels, quirk.METADATA in quirks or (own and bool(said.store))),
        ("service_tier", tier, usual or (tier in _TIERS if own else f"{tier}_tier" in quirks)),
        (quirk.CACHE_KEY, key, takes(quirk.CACHE_KEY) and len(key) <= _LONGEST_NAME),
        ("store", said.store, own),
    )
    for name, value, fits in fields:
        if not value:
            continue
        if fits:
            yield name, quirk.STANDARD_ONLY if usual and name == "service_tier" else value
        elif name != "service_tier" or tier not in UNSAID:
            dropped.append(name)
