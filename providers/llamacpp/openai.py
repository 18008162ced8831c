"""Reads OpenAI's requests for a local model and writes its answers in OpenAI's shapes.

What a local model cannot do yet is refused by name: an option silently ignored is an answer to
another question.
"""

import base64
import re
import time
import uuid
from array import array
from typing import Protocol, TypeVar

import msgspec

from tollway.providers.canon import Endpoint
from tollway.providers.errors import RequestInvalid
from tollway.providers.llamacpp.frames import (
    ChoiceEnded,
    Done,
    Message,
    Prompt,
    Refused,
    Sampling,
    Submit,
    Token,
    Up,
    Used,
    Vectors,
)

MAX_CHOICES = 128  # of all prompts of a call together
MAX_INPUTS = 2048
MAX_STOPS = 16
COMPLETION_TOKENS = 16  # what the legacy endpoint's reference gives when no limit is asked for

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SAMPLING = {
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
    "repeat_penalty", "repeat_last_n", "seed", "logit_bias",
}  # fmt: skip
_GENERATING = {"model", "stream", "stream_options", "max_tokens", "stop", "n"} | _SAMPLING
_READ = {
    "chat": _GENERATING | {"messages", "max_completion_tokens"},
    "completions": _GENERATING | {"prompt"},
    "embeddings": {"model", "input", "encoding_format", "dimensions"},
}
# Labels and hints for the provider's own books: they change no answer.
_NO_EFFECT = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention",
}  # fmt: skip
# Options that can be written without asking for anything.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}

T = TypeVar("T")


class Asked(msgspec.Struct, frozen=True):
    """A request, read. `job` has no id yet."""

    endpoint: Endpoint
    model: str
    job: Submit
    stream: bool = False
    include_usage: bool = False
    base64: bool = False


def read_request(endpoint: Endpoint, body: bytes) -> Asked:
    """Return what a body asks for.

    Raises:
        RequestInvalid: It is malformed, or asks for what a local model cannot do; `param` names
            the field.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise RequestInvalid(f"The body is not a JSON object: {fault}") from fault
    fields = {name: value for name, value in fields.items() if value is not None}
    _only_known(endpoint, fields)
    model = _typed(fields, "model", str, "")
    if endpoint == "embeddings":
        return _embeddings(model, fields)
    if endpoint in ("count_tokens", "compact"):
        raise RequestInvalid(f"A local model has no endpoint for `{endpoint}`")
    assert endpoint in ("chat", "completions")  # noqa: S101 - what is left; for the types
    prompts = _messages(fields) if endpoint == "chat" else _prompts(fields, "prompt")
    choices = _number(fields, "n", 1, 1, MAX_CHOICES)
    if choices * len(prompts) > MAX_CHOICES:
        raise RequestInvalid(f"A call has at most {MAX_CHOICES} choices in all", param="n")
    options = _typed(fields, "stream_options", dict, {})
    return Asked(
        endpoint,
        model,
        Submit(
            0,
            endpoint,
            prompts,
            n=choices,
            max_tokens=_limit(endpoint, fields),
            stop=_stops(fields),
            sampling=_sampling(fields),
        ),
        stream=_typed(fields, "stream", bool, False),
        include_usage=options.get("include_usage") is True,
    )


def _only_known(endpoint: Endpoint, fields: dict[str, object]) -> None:
    for name, value in fields.items():
        if name in _READ[endpoint] or name in _NO_EFFECT:
            continue
        if name not in _NEUTRAL:
            raise RequestInvalid(f"Local models do not know the field `{name}`", param=name)
        if value not in _NEUTRAL[name]:
            raise RequestInvalid(f"Local models do not support `{name}` yet", param=name)


def _typed(fields: dict[str, object], name: str, kind: type[T], default: T) -> T:
    value = fields.get(name, default)
    if not isinstance(value, kind):
        words = {str: "a text", bool: "true or false", dict: "an object"}
        raise RequestInvalid(f"`{name}` must be {words[kind]}", param=name)
    return value


def _number(fields: dict[str, object], name: str, default: int, low: int, high: int) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestInvalid(f"`{name}` must be a whole number, {low} to {high}", param=name)
    return value


def _fraction(
    fields: dict[str, object], name: str, default: float, low: float, high: float
) -> float:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RequestInvalid(f"`{name}` must be a number, {low:g} to {high:g}", param=name)
    return float(value)


def _sampling(fields: dict[str, object]) -> Sampling:
    seed = fields.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise RequestInvalid("`seed` must be a whole number", param="seed")
    return Sampling(
        temperature=_fraction(fields, "temperature", 0.8, 0, 2),
        top_k=_number(fields, "top_k", 40, 0, 2**31 - 1),
        top_p=_fraction(fields, "top_p", 0.95, 0, 1),
        min_p=_fraction(fields, "min_p", 0.05, 0, 1),
        presence=_fraction(fields, "presence_penalty", 0, -2, 2),
        frequency=_fraction(fields, "frequency_penalty", 0, -2, 2),
        repeat=_fraction(fields, "repeat_penalty", 1, 0.01, 10),
        repeat_last=_number(fields, "repeat_last_n", 64, 0, 2**20),
        seed=None if seed is None else seed % 2**32,
        bias=_bias(fields),
    )


def _bias(fields: dict[str, object]) -> dict[int, float]:
    bias: dict[int, float] = {}
    for token, value in _typed(fields, "logit_bias", dict, {}).items():
        # Ten digits: more would not fit the type that llama.cpp gives a token.
        if not re.fullmatch(r"[0-9]{1,9}", str(token)):
            raise RequestInvalid("`logit_bias` must be keyed by token numbers", param="logit_bias")
        bias[int(token)] = _fraction({"logit_bias": value}, "logit_bias", 0, -100, 100)
    return bias


def _limit(endpoint: Endpoint, fields: dict[str, object]) -> int | None:
    # The newer name wins, as it does at OpenAI.
    for name in ("max_completion_tokens", "max_tokens"):
        if name in fields:
            return _number(fields, name, 1, 1, 2**31 - 1)
    return COMPLETION_TOKENS if endpoint == "completions" else None


def _stops(fields: dict[str, object]) -> list[str]:
    value = fields.get("stop", [])
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise RequestInvalid(f"`stop` must be a text or up to {MAX_STOPS} of them", param="stop")
    if not all(isinstance(stop, str) and 0 < len(stop) <= 1024 for stop in stops):
        raise RequestInvalid("Each `stop` must be a text of 1 to 1024 characters", param="stop")
    return stops


def _messages(fields: dict[str, object]) -> list[Prompt]:
    said = fields.get("messages")
    if not isinstance(said, list) or not said:
        raise RequestInvalid("`messages` must be a list with a message in it", param="messages")
    return [Prompt(messages=[_message(at, message) for at, message in enumerate(said)])]


def _message(at: int, message: object) -> Message:
    where = f"messages[{at}]"
    if not isinstance(message, dict):
        raise RequestInvalid(f"`{where}` must be an object", param=where)
    for name in ("tool_calls", "function_call", "audio"):
        if message.get(name):
            raise RequestInvalid(
                f"Local models do not support `{name}` yet", param=f"{where}.{name}"
            )
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise RequestInvalid(
            "A local model takes messages of `system`, `developer`, `user` and `assistant`",
            param=f"{where}.role",
        )
    return Message(_ROLES[role], _content(f"{where}.content", message.get("content")))


def _content(where: str, content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise RequestInvalid(f"`{where}` must be a text or a list of text parts", param=where)
    texts: list[str] = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": str(kind)} if kind != "text":
                raise RequestInvalid(
                    f"Local models take text only, and `{where}` holds `{kind[:40]}`", param=where
                )
            case _:
                raise RequestInvalid(f"`{where}` holds a part that is no text", param=where)
    return "\n".join(texts)


def _prompts(fields: dict[str, object], name: str) -> list[Prompt]:
    value = fields.get(name)
    if isinstance(value, str):
        return [Prompt(text=value)]
    if isinstance(value, list) and value:
        if _are_tokens(value):
            return [Prompt(tokens=value)]
        if len(value) > MAX_INPUTS:
            raise RequestInvalid(f"`{name}` holds more than {MAX_INPUTS} texts", param=name)
        if all(isinstance(text, str) for text in value):
            return [Prompt(text=text) for text in value]
        if all(isinstance(tokens, list) and tokens and _are_tokens(tokens) for tokens in value):
            return [Prompt(tokens=tokens) for tokens in value]
    raise RequestInvalid(
        f"`{name}` must be a text, a list of texts, or tokens as a list of numbers", param=name
    )


def _are_tokens(value: list[object]) -> bool:
    return all(isinstance(token, int) and not isinstance(token, bool) for token in value) and all(
        isinstance(token, int) and 0 <= token < 2**31 for token in value
    )


def _embeddings(model: str, fields: dict[str, object]) -> Asked:
    form = fields.get("encoding_format", "float")
    if form not in {"float", "base64"}:
        raise RequestInvalid(
            "`encoding_format` must be `float` or `base64`", param="encoding_format"
        )
    dimensions = fields.get("dimensions")
    if dimensions is not None:
        dimensions = _number(fields, "dimensions", 1, 1, 2**20)
    job = Submit(0, "embeddings", _prompts(fields, "input"), dimensions=dimensions)
    return Asked("embeddings", model, job, base64=form == "base64")


# Answers.


class Writer(Protocol):
    """Turns what comes up from the worker into the bytes of an answer."""

    content_type: str

    def write(self, up: Up) -> bytes:
        """Return the bytes that can be sent now; often none."""
        ...


def writer(asked: Asked) -> Writer:
    """Return the writer for a request: a stream's, or a whole answer's."""
    if asked.endpoint == "embeddings":
        return _Embedded(asked)
    return _Stream(asked) if asked.stream else _Whole(asked)


def refusal(refused: Refused | RequestInvalid) -> bytes:
    """Return the body of a 400 in OpenAI's shape."""
    return msgspec.json.encode(
        {
            "error": {
                "message": refused.message,
                "type": "invalid_request_error",
                "param": refused.param,
                "code": refused.code,
            }
        }
    )


class _Stream:
    content_type = "text/event-stream"

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._chat = asked.endpoint == "chat"
        self._head = _head(asked, "chat.completion.chunk" if self._chat else "text_completion")
        self._begun: set[int] = set()

    def write(self, up: Up) -> bytes:
        match up:
            case Token(choice=choice, text=text):
                return self._begin(choice) + self._said(choice, text)
            case ChoiceEnded(choice=choice, reason=reason, text=text):
                said = self._begin(choice) + self._said(choice, text)
                return said + self._event([self._choice(choice, "", reason)])
            case Done(usage=used):
                last = self._event([], _usage(used)) if self._asked.include_usage else b""
                return last + b"data: [DONE]\n\n"
            case _:
                return b""

    def _begin(self, choice: int) -> bytes:
        if not self._chat or choice in self._begun:
            return b""
        self._begun.add(choice)
        first = {"role": "assistant", "content": ""}
        return self._event([{"index": choice, "delta": first, "finish_reason": None}])

    def _said(self, choice: int, text: str) -> bytes:
        return self._event([self._choice(choice, text, None)]) if text else b""

    def _choice(self, choice: int, text: str, reason: str | None) -> dict[str, object]:
        said: dict[str, object] = {"delta": {"content": text} if text else {}}
        if not self._chat:
            said = {"text": text, "logprobs": None}
        return {"index": choice, **said, "finish_reason": reason}

    def _event(self, choices: list[dict[str, object]], usage: object = None) -> bytes:
        chunk = {**self._head, "choices": choices}
        if self._asked.include_usage:
            chunk["usage"] = usage
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


class _Whole:
    content_type = "application/json"

    def __init__(self, asked: Asked) -> None:
        self._chat = asked.endpoint == "chat"
        self._head = _head(asked, "chat.completion" if self._chat else "text_completion")
        count = len(asked.job.prompts) * asked.job.n
        self._texts: list[list[str]] = [[] for _ in range(count)]
        self._reasons = [""] * count

    def write(self, up: Up) -> bytes:
        match up:
            case Token(choice=choice, text=text):
                self._texts[choice].append(text)
            case ChoiceEnded(choice=choice, reason=reason, text=text):
                self._texts[choice].append(text)
                self._reasons[choice] = reason
            case Done(usage=used):
                choices = [self._choice(at, "".join(text)) for at, text in enumerate(self._texts)]
                return msgspec.json.encode(
                    {**self._head, "choices": choices, "usage": _usage(used)}
                )
        return b""

    def _choice(self, at: int, text: str) -> dict[str, object]:
        said: dict[str, object] = {"text": text}
        if self._chat:
            said = {"message": {"role": "assistant", "content": text, "refusal": None}}
        return {"index": at, **said, "logprobs": None, "finish_reason": self._reasons[at]}


class _Embedded:
    content_type = "application/json"

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._vectors: list[bytes] = []

    def write(self, up: Up) -> bytes:
        match up:
            case Vectors(vector=vector):
                self._vectors.append(vector)
            case Done(usage=used):
                data = [
                    {"object": "embedding", "index": at, "embedding": self._shown(vector)}
                    for at, vector in enumerate(self._vectors)
                ]
                usage = {"prompt_tokens": used.prompt, "total_tokens": used.prompt}
                return msgspec.json.encode(
                    {"object": "list", "data": data, "model": self._asked.model, "usage": usage}
                )
        return b""

    def _shown(self, vector: bytes) -> str | list[float]:
        if self._asked.base64:
            return base64.b64encode(vector).decode()
        return array("f", vector).tolist()


def _head(asked: Asked, kind: str) -> dict[str, object]:
    prefix = "chatcmpl" if asked.endpoint == "chat" else "cmpl"
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": asked.model,
        "system_fingerprint": "llama.cpp",
    }


def _usage(used: Used) -> dict[str, object]:
    return {
        "prompt_tokens": used.prompt,
        "completion_tokens": used.completion,
        "total_tokens": used.prompt + used.completion,
        "prompt_tokens_details": {"cached_tokens": used.cached},
    }
