"""Reads a Gemini request into the neutral form.

Google's calls of functions often have no id. Each gets one, and the results that follow find
theirs by name and order.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from tollway.providers.canon import Call
from tollway.providers.conversation import (
    Audio,
    Conversation,
    File,
    Format,
    HostedTool,
    Image,
    Message,
    Opaque,
    Part,
    Reasoning,
    Sampling,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    carried,
)
from tollway.providers.dialects.gemini_known import KNOWN_OF_FUNCTIONS, unknown
from tollway.providers.dialects.gemini_request import NAME, camel
from tollway.providers.dialects.gemini_schema import as_json_schema
from tollway.providers.dialects.tiers import asked
from tollway.providers.dialects.wire import text_of
from tollway.providers.errors import RequestInvalid, Untranslatable

_MODES: Final[dict[str, Any]] = {
    **{"AUTO": "auto", "ANY": "any", "NONE": "none", "VALIDATED": "auto"},
    "MODE_UNSPECIFIED": "auto",
}
# What stands for a prompt, or for the answer so far; what may hold back either.
_KEPT_THERE: Final = {
    "cachedContent": "Send the content itself",
    "continuationToken": "Send what has been said, and ask for the rest",
    "modelArmorConfig": "Leave it out, or call a model of Google's",
}
# What was uploaded there; other buckets of Google's may be open to all.
_KEPT = re.compile(r"https?://[a-z0-9.-]*generativelanguage[a-z.]*\.googleapis\.com/")
_Object = dict[str, Any]
_NOTHING: tuple[object, ...] = (None, False, [], {})


def read_request(call: Call) -> Conversation:
    """Return what a body says.

    Raises:
        RequestInvalid: A field has the wrong type; `param` names it.
        Untranslatable: It builds on what Google keeps.
    """
    body = _body(call)
    unread = unknown(body)
    for name, hint in _KEPT_THERE.items():
        if body.pop(name, None):
            raise Untranslatable(
                f"`{name}` is kept at Google, and the target cannot read it", hint=hint, param=name
            )
    config = _camel(body.pop("generationConfig", None), "generationConfig")
    if config.get("responseFormat"):
        raise Untranslatable(
            "The target cannot be held to `responseFormat`",
            hint="Give a schema: `responseMimeType` and `responseJsonSchema`",
            param="generationConfig.responseFormat",
        )
    choosing = _camel(body.pop("toolConfig", None), "toolConfig")
    messages = (
        *_system(body.pop("systemInstruction", None)),
        *_joined(_contents(body.pop("contents", None))),
    )
    return Conversation(
        by=NAME,
        model=call.model,
        messages=messages,
        tools=tuple(_tools(body.pop("tools", None))),
        tool_choice=_tool_choice(choosing.pop("functionCallingConfig", None)),
        format=_format(config),
        stop=tuple(_strings(config.pop("stopSequences", None))),
        sampling=Sampling(
            temperature=_number(config, "temperature"),
            top_p=_number(config, "topP"),
            top_k=_whole(config, "topK"),
            seed=_whole(config, "seed"),
            frequency_penalty=_number(config, "frequencyPenalty"),
            presence_penalty=_number(config, "presencePenalty"),
        ),
        n=_whole(config, "candidateCount") or 1,
        logprobs=bool(config.pop("responseLogprobs", False)),
        top_logprobs=_whole(config, "logprobs"),
        reasoning=_reasoning(config),
        output_limit=_whole(config, "maxOutputTokens"),
        metadata=msgspec.json.encode(labels) if (labels := body.pop("labels", None)) else b"",
        modalities=_modalities(config),
        stream=call.stream,
        wants_usage=True,
        service_tier=_tier(body.pop("serviceTier", None)),
        extras=tuple(
            (name, msgspec.json.encode(value))
            for name, value in (*config.items(), *choosing.items(), *body.items())
            if value not in _NOTHING
        ),
        unread=unread,
    )


def _body(call: Call) -> _Object:
    """Return a request's fields; a count may be of turns alone, or hold a whole request."""
    body = {camel(name): value for name, value in _object(call.body).items()}
    if call.endpoint == "count_tokens" and (whole := body.get("generateContentRequest")):
        body = _camel(whole, "generateContentRequest")
        body.pop("model", None)  # which stands in the URL
    return body


def _system(said: object) -> Iterator[Message]:
    if said:
        parts = said.get("parts") if isinstance(said, dict) else said
        yield Message("system", tuple(_parts(parts, "systemInstruction", _Ids())))


def _tier(said: object) -> str:
    """Return a service tier in the words of the others: Google's may be in capitals."""
    tier = said.lower() if isinstance(said, str) else ""
    return asked(tier)


def _object(text: bytes) -> _Object:
    try:
        said = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise RequestInvalid("The request's body must be a JSON object")
    return said


def _camel(said: object, where: str) -> _Object:
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise RequestInvalid(f"`{where}` must be an object", param=where)
    return {camel(name): value for name, value in said.items()}


class _Ids:
    """The ids of function calls, and which of them wait for a result."""

    def __init__(self) -> None:
        self._made = 0
        self._open: list[tuple[str, str]] = []  # name and id, in order

    def called(self, name: str, id_: str) -> str:
        if not id_:
            self._made += 1
            id_ = f"call_{self._made}"
        self._open.append((name, id_))
        return id_

    def answered(self, name: str, id_: str) -> str:
        for place, (called, known) in enumerate(self._open):
            if known == id_ or (not id_ and called == name):
                del self._open[place]
                return known
        return id_ or f"call_of_{name}"


def _contents(said: object) -> Iterator[Message]:
    if said is None:
        return
    if isinstance(said, str | dict):
        said = [said]  # the libraries take one for many
    if not isinstance(said, list):
        raise RequestInvalid("`contents` must be an array", param="contents")
    ids = _Ids()
    for place, content in enumerate(said):
        where = f"contents[{place}]"
        if isinstance(content, str):
            yield Message("user", (Text(content),))
            continue
        if not isinstance(content, dict):
            raise RequestInvalid(f"`{where}` must be an object", param=where)
        parts = tuple(_parts(content.get("parts"), where, ids))
        results = tuple(part for part in parts if isinstance(part, ToolResult))
        others = tuple(part for part in parts if not isinstance(part, ToolResult))
        if results:
            yield Message("tool", results)
        if others:
            yield Message("assistant" if content.get("role") == "model" else "user", others)


def _joined(messages: Iterable[Message]) -> Iterator[Message]:
    """Yield messages, what the model said in pieces as one: clients keep a stream as it came."""
    said: list[Part] = []
    for message in messages:
        if message.role == "assistant":
            said += message.parts
            continue
        if said:
            yield Message("assistant", _proven(said))
            said = []
        yield message
    if said:
        yield Message("assistant", _proven(said))


def _proven(parts: list[Part]) -> tuple[Part, ...]:
    """Return parts in which a thought that came in pieces is one, with the proof behind them."""
    whole: list[Part] = []
    for part in parts:
        thought = part
        if isinstance(part, Thinking) and part.signature and not part.text:
            texts: list[str] = []
            while whole and isinstance(before := whole[-1], Thinking) and not before.by:
                texts.insert(0, before.text)
                whole.pop()
            thought = msgspec.structs.replace(part, text="".join(texts))
        whole.append(thought)
    return tuple(whole)


def _parts(said: object, where: str, ids: _Ids) -> Iterator[Part]:
    if isinstance(said, str):
        yield Text(said)
        return
    for place, part in enumerate(said if isinstance(said, list) else [said]):
        if isinstance(part, str):
            yield Text(part)
        elif isinstance(part, dict):
            yield _part({camel(name): value for name, value in part.items()}, part, ids)
        elif part is not None:
            param = f"{where}.parts[{place}]"
            raise RequestInvalid(f"`{param}` must be an object", param=param)


def _part(part: _Object, raw: _Object, ids: _Ids) -> Part:
    signature = text_of(part, "thoughtSignature")
    if part.get("thought"):
        return _thought(text_of(part, "text"), signature)
    found: Part
    if isinstance(call := part.get("functionCall"), dict):
        found = _call(call, signature, ids)
    elif isinstance(result := part.get("functionResponse"), dict):
        found = _result(result, ids)
    elif isinstance(data := part.get("inlineData"), dict):
        data = _camel(data, "inlineData")
        # Google's own library writes the alphabet of URLs, which nobody else reads.
        text = text_of(data, "data").replace("-", "+").replace("_", "/")
        source = Source("base64", text, text_of(data, "mimeType"))
        found = media(source, text_of(data, "displayName"))
    elif isinstance(data := part.get("fileData"), dict):
        data = _camel(data, "fileData")
        source = _by_uri(text_of(data, "fileUri"), text_of(data, "mimeType"))
        found = media(source, text_of(data, "displayName"))
    elif "text" in part:
        found = Text(text_of(part, "text"), signature=signature, by=NAME if signature else "")
    else:
        kind = next((name for name in part if name != "thoughtSignature"), "")
        found = Opaque(NAME, msgspec.json.encode(raw), kind)
    return found


def _by_uri(uri: str, media_type: str) -> Source:
    """Return where a file is: on the web for all to see, or kept at Google."""
    public = uri.startswith(("https://", "http://")) and not _KEPT.match(uri)
    return Source("url" if public else "id", uri, media_type)


def _thought(text: str, signature: str) -> Thinking:
    """Return a thought; what another provider signed comes back as it was (`unpacked`)."""
    foreign = unpacked(signature)
    if foreign is None:
        return Thinking(text, signature, by=NAME if signature else "")
    by, kind, value = foreign
    if kind == "encrypted":
        return Thinking(text, encrypted=value, by=by)
    return Thinking(text, value, by=by)


def packed(carried_text: str) -> str:
    """Return what `carry` made as a signature here: libraries take nothing but base64."""
    return base64.b64encode(carried_text.encode()).decode()


def unpacked(signature: str) -> tuple[str, str, str] | None:
    """Return dialect, kind and text of what `packed` made; None for Google's own signatures."""
    try:
        text = base64.urlsafe_b64decode(signature.replace("+", "-").replace("/", "_"))
        return carried(text.decode())
    except (binascii.Error, ValueError):
        return None


def _call(call: _Object, signature: str, ids: _Ids) -> ToolCall:
    name = text_of(call, "name")
    arguments = call.get("args")
    foreign = unpacked(signature)
    by, proof = (foreign[0], foreign[2]) if foreign else (NAME if signature else "", signature)
    return ToolCall(
        ids.called(name, text_of(call, "id")),
        name,
        msgspec.json.encode(arguments if arguments is not None else {}).decode(),
        signature=proof,
        by=by,
    )


def _result(result: _Object, ids: _Ids) -> ToolResult:
    name = text_of(result, "name")
    said = result.get("response")
    is_error = False
    parts: list[Part] = []
    if isinstance(said, dict) and len(said) == 1:
        (key, value) = next(iter(said.items()))
        if key in ("result", "output", "error") and isinstance(value, str):
            parts.append(Text(value))
            is_error = key == "error"
    if not parts and said is not None:
        parts.append(Text(msgspec.json.encode(said).decode()))
    shown = result.get("parts")
    for part in shown if isinstance(shown, list) else ():
        if isinstance(part, dict):
            parts.append(_part({camel(name): value for name, value in part.items()}, part, ids))
    return ToolResult(ids.answered(name, text_of(result, "id")), tuple(parts), is_error, name)


def media(source: Source, name: str = "") -> Part:
    """Return what bytes are by their type: a picture, a sound, or any other file."""
    kind = source.media_type.partition("/")[0]
    if kind == "image":
        return Image(source)
    return Audio(source) if kind == "audio" else File(source, name)


def _tools(said: object) -> Iterator[Tool | HostedTool]:
    for tool in said if isinstance(said, list) else [said] if isinstance(said, dict) else ():
        if not isinstance(tool, dict):
            raise RequestInvalid("`tools` must be an array of objects", param="tools")
        for key, value in tool.items():
            if camel(key) != "functionDeclarations":
                payload = msgspec.json.encode({key: value})
                yield HostedTool(NAME, camel(key), payload)
                continue
            for declared in value if isinstance(value, list) else [value]:
                yield _function(_camel(declared, "tools.functionDeclarations"))


def _function(declared: _Object) -> Tool:
    schema = declared.get("parametersJsonSchema")
    if schema is None and (loose := declared.get("parameters")) is not None:
        schema = as_json_schema(loose)
    return Tool(
        text_of(declared, "name"),
        text_of(declared, "description"),
        b"" if schema is None else msgspec.json.encode(schema),
        extras=tuple(
            (name, msgspec.json.encode(value))
            for name, value in declared.items()
            if name not in KNOWN_OF_FUNCTIONS and value not in _NOTHING
        ),
    )


def _tool_choice(config: object) -> ToolChoice | None:
    if config is None:
        return None
    config = _camel(config, "toolConfig.functionCallingConfig")
    names = tuple(_strings(config.get("allowedFunctionNames")))
    mode = _MODES.get(text_of(config, "mode").upper() or "AUTO")
    if mode is None:
        param = "toolConfig.functionCallingConfig.mode"
        raise RequestInvalid(f"`{param}` is none that we know", param=param)
    if mode == "any" and len(names) == 1:
        return ToolChoice("tool", names)
    return ToolChoice(mode, names)


def _format(config: _Object) -> Format | None:
    kind = config.pop("responseMimeType", None)
    schema = config.pop("responseJsonSchema", None)
    loose = config.pop("responseSchema", None)
    if schema is None and loose is not None:
        schema = as_json_schema(loose)
    if kind is None and schema is not None:
        kind = "application/json"  # Google says that it must be there, and nothing else fits
    if kind != "application/json":
        if kind not in (None, "text/plain"):
            raise Untranslatable(
                f"The target cannot be held to `{str(kind)[:80]}`",
                param="generationConfig.responseMimeType",
            )
        return None
    if schema is None:
        return Format("json_object")
    return Format("json_schema", msgspec.json.encode(schema))


def _reasoning(config: _Object) -> Reasoning | None:
    said = config.pop("thinkingConfig", None)
    if said is None:
        return None
    said = _camel(said, "generationConfig.thinkingConfig")
    budget = said.get("thinkingBudget")
    level = text_of(said, "thinkingLevel").lower()
    summary = "auto" if said.get("includeThoughts") else ""
    if budget == 0:
        return Reasoning("off", summary=summary)
    if type(budget) is int and budget > 0:
        return Reasoning("on", budget=budget, summary=summary)
    if budget == -1:
        return Reasoning("adaptive", summary=summary)
    known = level if level != "thinking_level_unspecified" else ""
    if not known and not summary:
        return None  # which asks for nothing: Claude would begin to think
    return Reasoning("on", known, summary=summary)


def _modalities(config: _Object) -> tuple[str, ...]:
    asked = tuple(one.lower() for one in _strings(config.pop("responseModalities", None)))
    return () if asked == ("text",) else asked


def _strings(said: object) -> list[str]:
    return [one for one in said if isinstance(one, str)] if isinstance(said, list) else []


def _number(config: _Object, name: str) -> float | None:
    value = config.pop(name, None)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        param = f"generationConfig.{name}"
        raise RequestInvalid(f"`{param}` must be a number", param=param)
    return float(value)


def _whole(config: _Object, name: str) -> int | None:
    value = _number(config, name)
    if value is None:
        return None
    if not value.is_integer():
        param = f"generationConfig.{name}"
        raise RequestInvalid(f"`{param}` must be a whole number", param=param)
    return int(value)
