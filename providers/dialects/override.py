"""What a route changes of the requests that come by it: temperature, length, instructions, effort.

A request that passes through is edited in place, member by member, as its target's model takes
it; one that is translated is changed in the neutral form, and its codec finds the words. Either
way what is held and billed is for the request that is sent, and the answer's head says what was
changed.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from tollway.providers.canon import Call, Overrides
from tollway.providers.conversation import Conversation, Message, Reasoning, Text
from tollway.providers.dialects.anthropic_models import takes_sampling, thinks
from tollway.providers.dialects.dialect import Edits, Facts, InUrl
from tollway.providers.dialects.gemini_thinking import thinking_config
from tollway.providers.dialects.json_edit import Field, edit, fields
from tollway.providers.dialects.openai_models import reasons
from tollway.providers.dialects.table import DIALECTS
from tollway.providers.effort import LEAST_BUDGET, SHARE_OF_THOUGHT, budget_of

# What a provider goes by where a request does not say.
_USUAL_TEMPERATURE = 1.0
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_INSTRUCTED = frozenset({"system", "developer"})


NOTHING = Overrides()


class Changed(msgspec.Struct, frozen=True):
    """A request as it is after all, and what was changed of it: "temperature=0.2"."""

    call: Call
    names: tuple[str, ...] = ()


def overridden(call: Call, said: Overrides, model: str) -> Changed:
    """Return a client's request with a route's changes, in its own dialect, for a target's model.

    Only chats are changed. What the model would refuse (a temperature where it samples as it
    likes, an effort where it does not think) is left as the client wrote it.

    Raises:
        RequestInvalid: A member that has to be changed is not what the dialect takes.
    """
    if call.endpoint != "chat":
        return Changed(call)
    names: list[str] = []
    limit = call.output_limit
    if said.max_output is not None and (limit is None or limit > said.max_output):
        call = _limited(call, said.max_output)
        names.append(f"output={said.max_output}")
    values = _EDITORS[call.dialect](call, said, model, names)
    return Changed(_with(call, values), tuple(names))


def changed(said: Conversation, overrides: Overrides) -> tuple[Conversation, tuple[str, ...]]:
    """Return a conversation with a route's changes, and what was changed."""
    names: list[str] = []
    new: dict[str, Any] = {}
    most = overrides.max_output
    if most is not None and (said.output_limit is None or said.output_limit > most):
        new["output_limit"] = most
        names.append(f"output={most}")
    if (cap := _cap(said.sampling.temperature, overrides)) is not None:
        new["sampling"] = msgspec.structs.replace(said.sampling, temperature=cap)
        names.append(f"temperature={cap:g}")
    if overrides.reasoning_effort:
        new["reasoning"] = _effort(said.reasoning, overrides.reasoning_effort)
        names.append(f"reasoning_effort={overrides.reasoning_effort}")
    if overrides.system_prefix:
        first = Message("system", (Text(overrides.system_prefix),))
        new["messages"] = (first, *said.messages)
        names.append("system_prefix")
    return msgspec.structs.replace(said, **new), tuple(names)


def _effort(asked: Reasoning | None, effort: str) -> Reasoning:
    asked = asked or Reasoning()
    if effort == "none":
        return msgspec.structs.replace(asked, mode="off", effort="", budget=None)
    return msgspec.structs.replace(asked, mode="on", effort=effort, budget=None)


def _cap(said: object, overrides: Overrides) -> float | None:
    """Return the temperature to write, None where the request's own is within the cap."""
    most = overrides.max_temperature
    if most is None:
        return None
    own = said if isinstance(said, int | float) else _USUAL_TEMPERATURE
    return most if own > most else None


def _limited(call: Call, most: int) -> Call:
    dialect = DIALECTS[call.dialect].dialect
    body = dialect.edit(call, Edits(model=call.model, output_limit=most))
    return dialect.peek(call.endpoint, body, InUrl(call.model, call.stream))


def _with(call: Call, values: dict[str, bytes]) -> Call:
    if not values:
        return call
    known = _members(call)
    body = edit(call.body, known, values)
    dialect = DIALECTS[call.dialect].dialect
    return dialect.peek(call.endpoint, body, InUrl(call.model, call.stream))


def _members(call: Call) -> dict[str, Field]:
    found: dict[str, Field] | None = getattr(call.scan, "fields", None)
    return fields(call.body) if found is None else found


def _read(known: dict[str, Field], name: str) -> Any:
    field = known.get(name)
    return None if field is None else msgspec.json.decode(field.raw)


def _table(known: dict[str, Field], name: str) -> dict[str, Any]:
    found = _read(known, name)
    return found if isinstance(found, dict) else {}


def _openai_chat(call: Call, said: Overrides, model: str, names: list[str]) -> dict[str, bytes]:
    known = _members(call)
    values: dict[str, bytes] = {}
    _openai_temperature(known, said, model, names, values)
    if said.reasoning_effort and _may_reason(model):
        values["reasoning_effort"] = msgspec.json.encode(said.reasoning_effort)
        names.append(f"reasoning_effort={said.reasoning_effort}")
    if said.system_prefix:
        values["messages"] = _prefixed(bytes(known["messages"].raw), said.system_prefix)
        names.append("system_prefix")
    return values


def _responses(call: Call, said: Overrides, model: str, names: list[str]) -> dict[str, bytes]:
    known = _members(call)
    values: dict[str, bytes] = {}
    _openai_temperature(known, said, model, names, values)
    if said.reasoning_effort and _may_reason(model):
        asked = _table(known, "reasoning") | {"effort": said.reasoning_effort}
        values["reasoning"] = msgspec.json.encode(asked)
        names.append(f"reasoning_effort={said.reasoning_effort}")
    if said.system_prefix:
        own = _read(known, "instructions")
        values["instructions"] = msgspec.json.encode(_joined(said.system_prefix, own))
        names.append("system_prefix")
    return values


def _openai_temperature(
    known: dict[str, Field],
    said: Overrides,
    model: str,
    names: list[str],
    values: dict[str, bytes],
) -> None:
    own = _read(known, "temperature")
    # Models that reason take none but their own, and refuse to be told any.
    if own is None and reasons(model):
        return
    if (cap := _cap(own, said)) is not None:
        values["temperature"] = msgspec.json.encode(cap)
        names.append(f"temperature={cap:g}")


def _may_reason(model: str) -> bool:
    """Whether a model may be told an effort: OpenAI's that do not think refuse it."""
    bare = model.rpartition("/")[2]
    return reasons(model) or not bare.startswith(("gpt-3", "gpt-4", "chatgpt-"))


def _anthropic(call: Call, said: Overrides, model: str, names: list[str]) -> dict[str, bytes]:
    known = _members(call)
    values: dict[str, bytes] = {}
    thinking = _table(known, "thinking")
    if said.reasoning_effort:
        found = _anthropic_effort(call, known, said.reasoning_effort, model)
        values |= {name: msgspec.json.encode(value) for name, value in found.items()}
        thinking = found.get("thinking", thinking)
        if found:
            names.append(f"reasoning_effort={said.reasoning_effort}")
    # Who thinks samples as Anthropic likes.
    thinks_on = thinking.get("type") in ("enabled", "adaptive")
    own = _read(known, "temperature")
    if takes_sampling(model) and not thinks_on and (cap := _cap(own, said)) is not None:
        values["temperature"] = msgspec.json.encode(cap)
        names.append(f"temperature={cap:g}")
    if said.system_prefix:
        own = _read(known, "system")
        if isinstance(own, list):
            part = msgspec.json.encode({"type": "text", "text": said.system_prefix})
            values["system"] = _in_front(bytes(known["system"].raw), part)
        else:
            values["system"] = msgspec.json.encode(_joined(said.system_prefix, own))
        names.append("system_prefix")
    return values


def _anthropic_effort(
    call: Call, known: dict[str, Field], effort: str, model: str
) -> dict[str, dict[str, Any]]:
    way = thinks(model)
    if way == "never":
        return {}
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    if way == "adaptive":
        word = "low" if effort == "minimal" else effort
        config = _table(known, "output_config") | {"effort": word}
        return {"thinking": {"type": "adaptive"}, "output_config": config}
    share, whole = SHARE_OF_THOUGHT
    room = (call.output_limit or budget_of(effort) * 2) * share // whole
    budget = min(budget_of(effort), room)
    if budget < LEAST_BUDGET:
        return {"thinking": {"type": "disabled"}} if "thinking" in known else {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _gemini(call: Call, said: Overrides, model: str, names: list[str]) -> dict[str, bytes]:
    known = _members(call)
    options: dict[str, Field] = getattr(call.scan, "options", {})
    inner: dict[str, bytes] = {}
    values: dict[str, bytes] = {}
    if (cap := _cap(_read(options, "temperature"), said)) is not None:
        inner["temperature"] = msgspec.json.encode(cap)
        names.append(f"temperature={cap:g}")
    if said.reasoning_effort:
        asked = msgspec.structs.replace(_effort(None, said.reasoning_effort), summary="none")
        config = thinking_config(asked, Facts(model=model), [])
        if config:
            own = _table(options, "thinkingConfig")
            own = {name: own[name] for name in own if "houghts" in name}  # whether they are shown
            inner["thinkingConfig"] = msgspec.json.encode(own | config)
            names.append(f"reasoning_effort={said.reasoning_effort}")
    if inner:
        field = known.get("generationConfig")
        raw = b"{}" if field is None or bytes(field.raw) == b"null" else bytes(field.raw)
        values["generationConfig"] = edit(raw, options, inner)
    if said.system_prefix:
        system = _table(known, "systemInstruction")
        parts = system.get("parts")
        old = parts if isinstance(parts, list) else [parts] if parts else []
        new = system | {"parts": [{"text": said.system_prefix}, *old]}
        values["systemInstruction"] = msgspec.json.encode(new)
        names.append("system_prefix")
    return values


_EDITORS: dict[str, Callable[[Call, Overrides, str, list[str]], dict[str, bytes]]] = {
    "openai_chat": _openai_chat,
    "openai_responses": _responses,
    "anthropic_messages": _anthropic,
    "gemini": _gemini,
}


def _joined(prefix: str, own: object) -> str:
    return f"{prefix}\n\n{own}" if isinstance(own, str) and own else prefix


def _in_front(array: bytes, item: bytes) -> bytes:
    """Return a JSON array with one more item at its front; the other items' bytes stay."""
    rest = array.lstrip()[1:]
    return b"[" + item + (b"" if rest.strip() == b"]" else b",") + rest


def _prefixed(messages: bytes, prefix: str) -> bytes:
    """Return messages whose instructions begin with a text; only the first one's bytes change.

    One that is there is added to, as many templates take a single one.
    """
    items = msgspec.json.decode(messages, type=list[msgspec.Raw])
    first = bytes(items[0]) if items else b"null"
    said = msgspec.json.decode(first)
    content = said.get("content") if isinstance(said, dict) else None
    if isinstance(said, dict) and said.get("role") in _INSTRUCTED:
        if isinstance(content, list):
            part = msgspec.json.encode({"type": "text", "text": prefix})
            own = fields(first, where="messages")
            new = edit(first, own, {"content": _in_front(bytes(own["content"].raw), part)})
        else:
            own = fields(first, where="messages")
            new = edit(first, own, {"content": msgspec.json.encode(_joined(prefix, content))})
        at = messages.index(first)
        return messages[:at] + new + messages[at + len(first) :]
    return _in_front(messages, msgspec.json.encode({"role": "system", "content": prefix}))
