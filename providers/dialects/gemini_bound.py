"""The most that one attempt at a Gemini call can use; BOUND.md has the proof for its parts.

`maxOutputTokens` bounds thoughts and answer together. What Google keeps (cached content, files)
and what it fetches is bounded by the context window alone; a tool that it runs, by nothing.
"""

from typing import Any

import msgspec

from tollway.providers.canon import Bound, Call
from tollway.providers.dialects.gemini_request import camel
from tollway.providers.dialects.openai_bound import CALL, MESSAGE, PART, TOOLS, Tally, strings
from tollway.providers.errors import RequestInvalid
from tollway.providers.price_service import STANDARD

_OWN_TOOLS = frozenset({"functionDeclarations"})
# Not part of what a model reads.
_UNPRINTED = frozenset({"safetySettings", "labels"})
# Sounds and pictures; another model, which Vertex would choose.
_DEAR = ("speechConfig", "imageConfig", "routingConfig", "modelConfig")
_MEDIA = ("inlineData", "fileData")
# What Google keeps, which the model reads though it does not stand here.
_KEPT = frozenset({"cachedContent", "continuationToken"})


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
    unbounded: list[str] = []
    service = STANDARD
    for key, value in body.items():
        tokens += tally.text_bytes(key)
        name = camel(key)
        if (held := _held(tally, name, value, call)) is not None:
            tokens += held
        elif name == "generateContentRequest" and call.endpoint == "count_tokens":
            tokens += tally.printed(value)
        elif name in _UNPRINTED:
            tally.text(value)
        else:
            tokens += tally.printed(value)
            if name == "tools" and value:
                tokens += TOOLS + _tools(value, unbounded)
            elif name in _KEPT and value:
                tally.by_window = True
            elif name == "serviceTier" and value is not None:
                service = _service(value, unbounded)
            elif name == "modelArmorConfig" and value:
                unbounded.append(name)  # has a fee by the length of texts
            elif name == "generationConfig" and type(value) is dict:
                unbounded += _raises_the_bill(value)
    if tally.strings != strings(call.body):
        raise RequestInvalid("A key stands twice in an object within the request")
    return Bound(
        input=tokens,
        output=call.output_limit if call.endpoint == "chat" else 0,
        choices=call.choices,
        prompts=_prompts(body) if call.endpoint == "embeddings" else 1,
        by_window=tally.by_window,
        service=service,
        unbounded=tuple(dict.fromkeys(tally.unbounded + unbounded)),
    )


def _held(tally: Tally, name: str, value: object, call: Call) -> int | None:
    """Return the tokens of a field that holds contents; None for any other."""
    embeds = call.endpoint == "embeddings"
    if name == "contents" and type(value) is list:
        return sum(MESSAGE + _content(tally, one) for one in value)
    if name == "systemInstruction" or (embeds and name == "content"):
        return MESSAGE + _content(tally, value)
    if embeds and name == "requests" and type(value) is list:
        return sum(MESSAGE + _embedded(tally, one) for one in value)
    return None


def _service(tier: object, unbounded: list[str]) -> str:
    """Return the service tier asked for; Google minds no case, and takes a number for a word."""
    if not isinstance(tier, str):
        unbounded.append("serviceTier")
        return STANDARD
    word = tier.lower()
    return STANDARD if word in ("", "unspecified") else word


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


def _prompts(body: dict[str, Any]) -> int:
    """Return how many contents become a vector each."""
    listed = body.get("requests")
    return max(1, len(listed)) if type(listed) is list else 1


def _embedded(tally: Tally, request: object) -> int:
    """Return the tokens of one content of a batch to embed, and of what is said of it."""
    if type(request) is not dict:
        return tally.printed(request)
    tally.strings += len(request)
    total = 0
    for key, value in request.items():
        total += tally.text_bytes(key)
        total += _content(tally, value) if key == "content" else tally.printed(value)
    return total


def _content(tally: Tally, content: object) -> int:
    if type(content) is not dict:
        return tally.printed(content)
    total = 0
    tally.strings += len(content)
    for key, value in content.items():
        total += tally.text_bytes(key)
        if key == "parts":
            parts = value if type(value) is list else [value]
            total += sum(PART + _part(tally, part) for part in parts)
        else:
            total += tally.printed(value)
    return total


def _part(tally: Tally, part: object) -> int:
    if type(part) is not dict:
        return tally.printed(part)
    names = {camel(key): key for key in part}
    if any(name in names for name in _MEDIA):
        # Its bytes say nothing of its tokens.
        tally.text(part)
        tally.by_window = True
        if "fileData" in names:
            tally.unbounded.append("contents[].parts[].fileData")
        return 0
    if set(names) <= {"text", "thought", "thoughtSignature"}:
        return max(tally.text(part), tally.aside(part.get("text", "")))
    total = tally.printed(part)
    for name in ("functionCall", "functionResponse"):
        said = part.get(names.get(name, name))
        if type(said) is dict and type(called := said.get("name")) is str:
            total += tally.quoted_bytes(called)  # templates repeat it at the result
    return total


def _tools(tools: object, unbounded: list[str]) -> int:
    total = 0
    for tool in tools if type(tools) is list else [tools]:
        if type(tool) is not dict:
            continue
        for key, value in tool.items():
            name = camel(key)
            if name in _OWN_TOOLS:
                total += PART * (len(value) if type(value) is list else 1)
            else:
                unbounded.append(f"tools[].{name[:40]}")
    return total


def _raises_the_bill(config: dict[str, Any]) -> list[str]:
    named = []
    for key, value in config.items():
        name = camel(key)
        if name == "responseModalities" and value not in (None, [], ["TEXT"]):
            named.append("generationConfig.responseModalities")
        elif (name in _DEAR and value) or (name == "responseFormat" and not _is_text(value)):
            named.append(f"generationConfig.{name}")
    return named


def _is_text(formats: object) -> bool:
    """Whether an answer is asked for as text alone."""
    return all(
        type(one) is dict and {camel(name) for name, said in one.items() if said} <= {"text"}
        for one in (formats if type(formats) is list else [formats])
        if one is not None
    )
