"""The most that one attempt at an OpenAI call can use; the proof is in BOUND.md beside this."""

import unicodedata
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any, Literal

import msgspec

from tollway.providers.canon import Bound, Call
from tollway.providers.errors import RequestInvalid

# Allowances, in tokens; BOUND.md says what each covers.
CALL = 1024
TOOLS = 1024
MESSAGE = 32
PART = 16

# Longer strings are normalised in pieces, so that a hostile one cannot fill the memory.
_PIECE = 65_536
# A number as JSON printers write it; 1e20 has 21 digits in some.
_NUMBER = 24
# Hugging Face's `tojson` filter writes these four as \u00XX.
_HTML = "<>&'"

_FORMS: tuple[Literal["NFC"], Literal["NFKC"]] = ("NFC", "NFKC")
_TEXT_PARTS = frozenset({"text", "refusal", "thinking", "input_text", "output_text"})
_URLS = frozenset({"url", "image_url", "video_url", "audio_url", "file_url"})
_IDS = frozenset({"id", "file_id"})
_TOOL_TYPES = frozenset({None, "function", "custom"})
_TIERS = frozenset({None, "auto", "default", "standard", "standard_only", "flex", "on_demand"})
# Fields that no template prints.
_UNPRINTED = frozenset({"model", "stream", "stream_options"})
# Fields that raise the bill past any number of tokens, or past the limits that we read.
UNBOUNDED = (
    "audio",
    "max_new_tokens",
    "models",
    "n_cmpl",
    "n_predict",
    "plugins",
    "prediction",
    "provider",
    "route",
    "search_parameters",
    "web_search_options",
)


def bound(call: Call) -> Bound:
    """Return the most that one attempt at the call can use.

    Raises:
        RequestInvalid: It is nested too deeply, a number is out of range, or a nested key
            stands twice.
    """
    body = _decode(call.body)
    tally = _Tally()
    tokens = CALL if call.endpoint == "chat" else PART
    prompt = {"chat": "messages", "completions": "prompt", "embeddings": "input"}[call.endpoint]
    for key, value in body.items():
        tokens += tally.text(key)
        if key == prompt:
            tokens += _messages(tally, value) if key == "messages" else _texts(tally, value)
        elif key in _UNPRINTED:
            tally.text(value)
        else:
            tokens += tally.printed(value)
            if key in ("tools", "functions") and value:
                tokens += TOOLS + (PART * len(value) if type(value) is list else PART)
    if tally.strings != strings(call.body):
        raise RequestInvalid("A key stands twice in an object within the request")
    embeds = call.endpoint == "embeddings"
    return Bound(
        input=tokens,
        output=0 if embeds else call.output_limit,
        choices=1 if embeds else _choices(call, body),
        by_window=tally.by_window or body.get("chat_template") is not None,
        unbounded=tuple(dict.fromkeys([*tally.unbounded, *_raises_the_bill(body)])),
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


def strings(text: bytes) -> int:
    """Return how many strings, keys included, a valid JSON text holds."""
    quotes = text.count(b'"')
    if b"\\" in text:
        # Read from the left, an escaped backslash is a pair; what is then left escapes a quote.
        quotes -= text.replace(b"\\\\", b"").count(b'\\"')
    return quotes // 2


class _Tally:
    """What is met on the way through a request."""

    def __init__(self) -> None:
        self.strings = 0  # to be sure that decoding hid none: a key that stood twice
        self.by_window = False
        self.unbounded: list[str] = []

    def text(self, value: object) -> int:
        """Return the bytes of every string in `value`, keys included, however normalised."""
        if type(value) is str:
            self.strings += 1
            return len(value) if value.isascii() else text_bytes(value)
        total = 0
        stack = [value]
        while stack:
            one = stack.pop()
            if type(one) is str:
                self.strings += 1
                total += text_bytes(one)
            elif type(one) is dict:
                stack += one.keys()
                stack += one.values()
            elif type(one) is list:
                stack += one
        return total

    def printed(self, value: object, depth: int = 0) -> int:
        """Return the bytes of `value` as JSON, indented by 4 and escaped, at most."""
        if type(value) is int or type(value) is bool or type(value) is float:
            return _number(value)
        total = 0
        stack = [(value, depth)]
        while stack:
            one, depth = stack.pop()
            if type(one) is str:
                self.strings += 1
                total += quoted_bytes(one)
            elif type(one) is dict:
                # Per member a line's end, its indent, ": " and a comma; then the brace's line.
                total += (4 * depth + 8) * len(one) + 4 * depth + 3
                stack += [(key, 0) for key in one]
                stack += [(member, depth + 1) for member in one.values()]
            elif type(one) is list:
                total += (4 * depth + 6) * len(one) + 4 * depth + 3
                stack += [(member, depth + 1) for member in one]
            else:
                total += _number(one)
        return total


def _number(value: object) -> int:
    return max(_NUMBER, value.bit_length() // 3 + 2) if type(value) is int else _NUMBER


def text_bytes(text: str) -> int:
    """Return the largest of a text's raw, NFC and NFKC UTF-8 bytes, or a little more."""
    if text.isascii():
        return len(text)
    if len(text) > _PIECE:
        cuts = range(0, len(text), _PIECE)
        return sum(text_bytes(text[cut : cut + _PIECE]) + PART for cut in cuts)
    most = len(text.encode())
    for form in _FORMS:
        if not unicodedata.is_normalized(form, text):
            most = max(most, len(unicodedata.normalize(form, text).encode()))
    return most


def quoted_bytes(text: str) -> int:
    """Return the bytes of a string printed as JSON, escaped to ASCII or not, quotes included.

    Three more for each line: gpt-oss gets descriptions as comments, each line behind slashes.
    """
    extra = 5 * sum(text.count(mark) for mark in _HTML) + 3 * text.count("\n")
    escaped = len(encode_basestring_ascii(text))
    if text.isascii():
        return escaped + extra
    escapes = len(encode_basestring(text)) - len(text)
    return max(escaped, text_bytes(text) + escapes) + extra


def printed_bytes(text: str) -> int:
    """Return the bytes of a string that some templates print quoted, others as the JSON it is."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return quoted_bytes(text)
    return max(quoted_bytes(text), _Tally().printed(value, 1))


def _messages(tally: _Tally, messages: list[object]) -> int:
    total = 0
    for message in messages:
        total += MESSAGE
        if type(message) is not dict:
            total += tally.printed(message)
            continue
        result = message.get("role") in ("tool", "function")
        for key, value in message.items():
            total += tally.text(key)
            if key == "content":
                total += _content(tally, value, result=result)
            elif key in ("tool_calls", "function_call"):
                total += _tool_calls(tally, value)
            elif value is not None:
                total += tally.text(value) if type(value) is str else tally.printed(value)
        # An earlier spoken answer, by its id.
        tally.by_window |= message.get("audio") is not None
    return total


def _content(tally: _Tally, content: object, *, result: bool) -> int:
    if type(content) is str:
        if not result:
            return tally.text(content)
        tally.text(content)
        return printed_bytes(content)
    if type(content) is not list:
        return tally.printed(content) if content is not None else 0
    return sum(PART + _part(tally, part, result=result) for part in content)


def _part(tally: _Tally, part: object, *, result: bool) -> int:
    kind = part.get("type") if type(part) is dict else "text"
    if type(kind) is str and kind in _TEXT_PARTS:
        text = tally.text(part)
        return max(text, _Tally().printed(part)) if result else text
    # Not text: its bytes say nothing of its tokens.
    tally.text(part)
    tally.by_window = True
    if _is_elsewhere(part):
        tally.unbounded.append(f"messages[].content[].{str(kind)[:40]}")
    return 0


def _is_elsewhere(part: object) -> bool:
    """Whether a part holds a URL or an id, so that even its size is not known here."""
    stack = [part]
    while stack:
        one = stack.pop()
        if type(one) is list:
            stack += one
        elif type(one) is dict:
            for key, value in one.items():
                if type(value) is not str:
                    stack.append(value)
                elif key in _IDS or _is_away(key, value):
                    return True
    return False


def _is_away(key: str, value: str) -> bool:
    return "://" in value[:32] or (key in _URLS and not value.startswith("data:"))


def _tool_calls(tally: _Tally, calls: object) -> int:
    """Return the bytes of tool calls, their names twice: templates repeat them at the result."""
    total = tally.printed(calls)
    for call in calls if type(calls) is list else [calls]:
        if type(call) is not dict:
            continue
        total += PART
        for said in (call, call.get("function"), call.get("custom")):
            if type(said) is not dict:
                continue
            if type(name := said.get("name")) is str:
                total += quoted_bytes(name)
            if type(arguments := said.get("arguments")) is str:
                total += printed_bytes(arguments) - quoted_bytes(arguments)
    return total


def _texts(tally: _Tally, texts: object) -> int:
    """Return the tokens of a prompt or input: strings by their bytes, token ids one each."""
    if type(texts) is not list:
        return PART + tally.text(texts)
    total = PART
    for text in texts:
        if type(text) is int:
            total += 1
        else:
            total += PART + (len(text) if type(text) is list else tally.text(text))
    return total


def _choices(call: Call, body: dict[str, Any]) -> int:
    n = body.get("n") or 1
    best_of = body.get("best_of") or 1
    return call.choices // n * max(n, best_of)


def _raises_the_bill(body: dict[str, Any]) -> list[str]:
    named = [name for name in UNBOUNDED if body.get(name) not in (None, False, [])]
    tier = body.get("service_tier")
    if not isinstance(tier, str | None) or tier not in _TIERS:
        named.append("service_tier")
    modalities = body.get("modalities")
    if modalities is not None and modalities != ["text"]:
        named.append("modalities")
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        kind = tool.get("type") if isinstance(tool, dict) else tool
        if not isinstance(kind, str | None) or kind not in _TOOL_TYPES:
            named.append(f"tools[].{str(kind)[:40]}")
    return named
