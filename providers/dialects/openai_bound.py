"""The most that one attempt at an OpenAI call can use; the proof is in BOUND.md beside this."""

import unicodedata
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any, Final, Literal

import msgspec

from tollway.providers.canon import Bound, Call
from tollway.providers.errors import RequestInvalid

# Allowances, in tokens; BOUND.md says what each covers.
CALL = 1024
TOOLS = 1024
MESSAGE = 32
PART = 16

# A request of more values than this takes too long to read: no honest one has so many.
MOST_VALUES = 100_000
# Texts are normalised in pieces, and only so many characters of a request: a hostile one could
# take seconds. What is past that counts as if it grew as much as any character does (U+FDFA).
_PIECE = 8192
_NORMALISED = 65_536
_GROWTH = 11
# A number as JSON printers write it; 1e20 has 21 digits in some.
_NUMBER = 24
# Hugging Face's `tojson` filter writes these four as \u00XX.
_HTML = "<>&'"

_FORMS: tuple[Literal["NFC"], Literal["NFKC"]] = ("NFC", "NFKC")
_TEXT_PARTS = frozenset({"text", "refusal", "thinking", "input_text", "output_text"})
_URLS = frozenset({"url", "image_url", "video_url", "audio_url", "file_url"})
_PLAIN = frozenset({"type", "text", "cache_control"})
_SPEAKERS = ("user", "assistant", "system", "developer")
_TWO_KEYS = len("role") + len("content")
_NOT_TEXT = frozenset({"type", "input_audio", "image", "file", "image_pil", *_URLS} - {"url"})
_IDS = frozenset({"id", "file_id"})
_TOOL_TYPES = frozenset({None, "function", "custom"})
# Fields that no template prints.
_UNPRINTED = frozenset({"model", "stream", "stream_options"})
# Fields that raise the bill past any number of tokens, or past the limits that we read.
UNBOUNDED = (
    "audio",
    "compound_custom",
    "content_policy_fallbacks",
    "context_window_fallbacks",
    "dataSources",
    "data_sources",
    "enable_enhancement",
    "enable_search",
    "fallbacks",
    "features",
    "force_search_enhancement",
    "max_new_tokens",
    "models",
    "n_cmpl",
    "n_predict",
    "plugins",
    "prediction",
    "preset",
    "prompt_id",
    "provider",
    "providerOptions",
    "route",
    "safety_model",
    "search_parameters",
    "tool_ids",
    "venice_parameters",
    "web_search",
    "web_search_options",
)
# xAI's way to say that nothing is to be searched for.
SEARCHES_NOT: Final = {"mode": "off"}
_ASKS_NOTHING: Final[tuple[object, ...]] = (None, False, [], SEARCHES_NOT)
# What `_raises_the_bill` looks at.
_THOUGHTS = ("enable_thinking", "thinking_budget")
_DEAR = frozenset({*UNBOUNDED, *_THOUGHTS, "extra_body", "service_tier", "modalities", "tools"})
# Fields that may stand for more of a prompt than they say: a template of the caller's own, a tensor
# that repeats itself, what a server kept of an earlier call, files that it looks into.
_STANDS_FOR_MORE = frozenset(
    {
        *("chat_template", "chat_template_kwargs", "prompt_embeds", "session_params"),
        *("files", "vector_store_ids"),
    }
)
# How Alibaba's models are told in an instruction which files to read: all of them are input.
_FILE = "fileid://"
# What Google reads of `extra_body` that raises no bill past the limit of the answer.
_THINKING = frozenset({"thinking_config", "thinkingConfig"})
_PROMPTS = {"chat": "messages", "completions": "prompt", "embeddings": "input"}


def bound(call: Call) -> Bound:
    """Return the most that one attempt at the call can use.

    Raises:
        RequestInvalid: It is nested too deeply, a number is out of range, or a nested key
            stands twice.
    """
    body = _decode(call.body)
    tally = Tally()
    tokens = CALL if call.endpoint == "chat" else PART
    prompt = _PROMPTS[call.endpoint]
    tally.strings += len(body)
    for key, value in body.items():
        tokens += len(key) if key.isascii() else tally.text_bytes(key)
        if key == prompt:
            tokens += _messages(tally, value) if key == "messages" else _texts(tally, value)
        elif key == "messages" and type(value) is list:  # vLLM embeds these, pictures included
            tokens += CALL + _messages(tally, value)
        elif key in _UNPRINTED:
            tally.text(value)
        elif type(value) is int or type(value) is bool:
            tokens += _number(value)
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
        beside=_thoughts(body),
        choices=1 if embeds else _choices(call, body),
        prompts=1 if call.endpoint == "chat" else _prompts(body[prompt]) if prompt in body else 1,
        by_window=tally.by_window or (not _STANDS_FOR_MORE.isdisjoint(body) and _prints_more(body)),
        media=tally.by_window,
        service=_service(body),
        unbounded=tuple(dict.fromkeys(tally.unbounded + _raises_the_bill(body)))
        if tally.unbounded or not _DEAR.isdisjoint(body)
        else (),
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


class Tally:
    """What is met on the way through a request, and what it costs at most."""

    def __init__(self) -> None:
        self.strings = 0  # to be sure that decoding hid none: a key that stood twice
        self.by_window = False
        self.unbounded: list[str] = []
        self._values = MOST_VALUES
        self._room = _NORMALISED

    def text(self, value: object) -> int:
        """Return the bytes of every string in `value`, keys included, however normalised."""
        if type(value) is str:
            self.strings += 1
            return len(value) if value.isascii() else self.text_bytes(value)
        total = 0
        stack = [value]
        while stack:
            one = stack.pop()
            if type(one) is str:
                self.strings += 1
                total += len(one) if one.isascii() else self.text_bytes(one)
            elif type(one) is dict:
                self._met(len(one))
                stack += one.keys()
                stack += one.values()
            elif type(one) is list:
                self._met(len(one))
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
                total += self.quoted_bytes(one)
            elif type(one) is dict:
                self._met(len(one))
                # Per member a line's end, its indent, ": " and a comma; then the brace's line.
                total += (4 * depth + 8) * len(one) + 4 * depth + 3
                stack += [(key, 0) for key in one]
                stack += [(member, depth + 1) for member in one.values()]
            elif type(one) is list:
                self._met(len(one))
                total += (4 * depth + 6) * len(one) + 4 * depth + 3
                stack += [(member, depth + 1) for member in one]
            else:
                total += _number(one)
        return total

    def aside(self, value: object) -> int:
        """Return what `printed` does for what is no part of the request's own structure."""
        strings = self.strings
        total = self.printed(value, 1)
        self.strings = strings
        return total

    def _met(self, values: int) -> None:
        self._values -= values
        if self._values < 0:
            raise RequestInvalid(f"The request holds more than {MOST_VALUES:,} values")

    def text_bytes(self, text: str) -> int:
        """Return the largest of a text's raw, NFC and NFKC UTF-8 bytes, or a little more."""
        if text.isascii():
            return len(text)
        total = 0
        for cut in range(0, len(text), _PIECE):
            piece = text[cut : cut + _PIECE] if len(text) > _PIECE else text
            most = len(piece.encode())
            if len(piece) > self._room:
                plain = len(piece.encode("ascii", "ignore"))
                most = plain + _GROWTH * (most - plain)
            elif not unicodedata.is_normalized("NFKC", piece):
                for form in _FORMS:
                    most = max(most, len(unicodedata.normalize(form, piece).encode()))
            self._room -= len(piece)
            total += most + (PART if cut else 0)
        return total

    def quoted_bytes(self, text: str) -> int:
        """Return the bytes of a string printed as JSON, escaped to ASCII or not, with quotes.

        Three more for each line: gpt-oss gets descriptions as comments, each behind slashes.
        """
        extra = 5 * sum(text.count(mark) for mark in _HTML) + 3 * text.count("\n")
        escaped = len(encode_basestring_ascii(text))
        if text.isascii():
            return escaped + extra
        escapes = len(encode_basestring(text)) - len(text)
        return max(escaped, self.text_bytes(text) + escapes) + extra

    def spoken_json(self, text: str) -> int:
        """Return the bytes of a string that templates quote, or print as the JSON it is."""
        quoted = self.quoted_bytes(text)
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return quoted
        return max(quoted, self.aside(value))


def _number(value: object) -> int:
    return max(_NUMBER, value.bit_length() // 3 + 2) if type(value) is int else _NUMBER


def _messages(tally: Tally, messages: list[object]) -> int:
    total = 0
    for message in messages:
        total += MESSAGE
        if type(message) is not dict:
            total += tally.printed(message)
            continue
        role = message.get("role")
        if len(message) == 2 and role in _SPEAKERS and type(said := message.get("content")) is str:
            # As most are; what follows comes to the same.
            tally.strings += 4
            total += _TWO_KEYS + len(role)
            total += len(said) if said.isascii() else tally.text_bytes(said)
            if role == "system" and _FILE in said:
                tally.by_window = True
            continue
        result = role in ("tool", "function")
        if role == "system" and _names_files(message.get("content")):
            tally.by_window = True
        tally.strings += len(message)
        for key, value in message.items():
            total += len(key) if key.isascii() else tally.text_bytes(key)
            if type(value) is str and (key == "role" or (key == "content" and not result)):
                tally.strings += 1  # as `text` does, without the call
                total += len(value) if value.isascii() else tally.text_bytes(value)
            elif key == "content":
                total += _content(tally, value, result=result)
            elif key in ("tool_calls", "function_call"):
                total += _tool_calls(tally, value)
            elif value is not None:
                total += tally.text(value) if type(value) is str else tally.printed(value)
        if message.get("audio") is not None:  # an earlier spoken answer, by its id
            tally.by_window = True
    return total


def _names_files(content: object) -> bool:
    parts = content if type(content) is list else [{"text": content}]
    texts = (part.get("text") for part in parts if type(part) is dict)
    return any(type(text) is str and _FILE in text for text in texts)


def _content(tally: Tally, content: object, *, result: bool) -> int:
    if type(content) is str:
        if not result:
            return tally.text(content)
        tally.strings += 1
        return tally.spoken_json(content)
    if type(content) is not list:
        return tally.printed(content) if content is not None else 0
    return sum(PART + _part(tally, part, result=result) for part in content)


def _part(tally: Tally, part: object, *, result: bool) -> int:
    kind = part.get("type") if type(part) is dict else "text"
    if type(kind) is str and kind in _TEXT_PARTS and not _is_more_than_text(part):
        text = tally.text(part)
        return max(text, tally.aside(part)) if result else text
    # Not text: its bytes say nothing of its tokens.
    tally.text(part)
    tally.by_window = True
    if is_elsewhere(part):
        tally.unbounded.append(f"messages[].content[].{str(kind)[:40]}")
    return 0


def _is_more_than_text(part: object) -> bool:
    """Whether a part that says it is text holds what some server takes for a picture or sound.

    vLLM goes by the fields where a part has a `uuid`; Go's JSON reader takes `Type` for `type`.
    """
    return (
        type(part) is dict
        and len(part) > 2
        and not part.keys() <= _PLAIN  # most have no more than these
        and any(
            name != "type" and value is not None and name.lower() in _NOT_TEXT
            for name, value in part.items()
        )
    )


def is_elsewhere(part: object) -> bool:
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


def _tool_calls(tally: Tally, calls: object) -> int:
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
                total += tally.quoted_bytes(name)
            if type(arguments := said.get("arguments")) is str:
                total += tally.spoken_json(arguments)
    return total


def _texts(tally: Tally, texts: object) -> int:
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


def _prompts(texts: object) -> int:
    """Return how many inputs there are; a list of tokens is one."""
    if type(texts) is not list or all(type(text) is int for text in texts):
        return 1
    return len(texts)


def _choices(call: Call, body: dict[str, Any]) -> int:
    n = body.get("n") or 1
    best_of = body.get("best_of") or 1
    return call.choices // n * max(n, best_of)


def _thoughts(body: dict[str, Any]) -> int:
    """Return the tokens of thoughts that an answer may have beside `max_tokens`.

    At Alibaba, whose fields these are, that holds the words of the answer alone for models of
    before Qwen 4; `max_completion_tokens` holds both (Model Studio, "API compatibility upgrades").
    """
    budget = body.get("thinking_budget")
    if type(budget) is not int or budget < 0 or body.get("max_completion_tokens") is not None:
        return 0
    return budget if body.get("enable_thinking") is not False else 0


def _thinks_without_end(body: dict[str, Any]) -> list[str]:
    """Return the fields by which thoughts are asked for that nothing bounds: see `_thoughts`."""
    if body.get("max_completion_tokens") is not None:
        return []
    budget = body.get("thinking_budget")
    if budget is not None and (type(budget) is not int or budget < 0):
        return ["thinking_budget"]
    asked = body.get("enable_thinking") not in (None, False)
    return ["enable_thinking"] if asked and budget is None else []


def _prints_more(body: dict[str, Any]) -> bool:
    """Whether a template may print more than the request holds."""
    said = {name for name in _STANDS_FOR_MORE if body.get(name) not in (None, [])}
    variables = body.get("chat_template_kwargs")
    if type(variables) is dict and "chat_template" not in variables:
        said.discard("chat_template_kwargs")
    return bool(said)


def _is_more_than_thinking(extra: object) -> bool:
    """Whether `extra_body` holds anything but what Google takes there about thinking.

    It names cached content there too, and other servers read any field of theirs in it.
    """
    if type(extra) is not dict:
        return bool(extra)
    google = extra.get("google", {})
    return (
        not extra.keys() <= {"google"} or type(google) is not dict or not google.keys() <= _THINKING
    )


def _service(body: dict[str, Any]) -> str:
    """Return the service tier asked for; whether it has a price is the gate's to say."""
    tier = body.get("service_tier")
    return tier if type(tier) is str and tier else "auto"


def raising(body: dict[str, Any]) -> list[str]:
    """Return the fields of a request, beside its tools, that can raise the bill past any bound.

    Those of Responses requests too: servers and routers that speak both read the same ones.
    """
    named = [name for name in UNBOUNDED if name in body and body[name] not in _ASKS_NOTHING]
    tier = body.get("service_tier")
    if tier is not None and type(tier) is not str:
        named.append("service_tier")
    if _is_more_than_thinking(body.get("extra_body")):
        named.append("extra_body")
    modalities = body.get("modalities")
    if modalities is not None and modalities != ["text"]:
        named.append("modalities")
    return named


def _raises_the_bill(body: dict[str, Any]) -> list[str]:
    named = raising(body) + _thinks_without_end(body)
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        kind = tool.get("type") if isinstance(tool, dict) else tool
        if not isinstance(kind, str | None) or kind not in _TOOL_TYPES:
            named.append(f"tools[].{str(kind)[:40]}")
    return named
