"""Errors in OpenAI's shape, and the messages in the many shapes that providers give them."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from tollway.providers.errors import GatewayError, UpstreamRefused

# A message this long says all that a person will read; a provider's may hold the whole prompt.
_MOST = 500

_NO_JSON = object()
_TYPES = {402: "insufficient_quota", 429: "rate_limit_error"}
_SECRET = re.compile(r"\b(?:sk|tw|gsk|xai|pplx|csk|fw|key)-[\w*.-]{6,}|\bBearer\s+\S+", re.ASCII)
_TITLE = re.compile(r"<(title|h1)[^>]*>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_UNSEEN = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")


def write_error(error: GatewayError, call_id: str) -> bytes:
    """Return an error body that OpenAI's client libraries read.

    The status decides which class they raise. `source` says who is speaking, the gateway or the
    provider; a provider's own `type`, `param` and `code` are kept, since programs go by them.
    """
    message = f"{error.message}. {error.hint}" if error.hint else error.message
    said: dict[str, object] = {
        "message": message,
        "type": _TYPES.get(
            error.status, "server_error" if error.status >= 500 else "invalid_request_error"
        ),
        "param": error.param,
        "code": error.code,
    }
    if isinstance(error, UpstreamRefused):
        said.update(_own_words(error.body))
    return msgspec.json.encode({"error": {**said, "source": error.whose, "request_id": call_id}})


def error_event(error: GatewayError, call_id: str) -> bytes:
    """Return the event that ends a broken stream; no [DONE] follows, the answer is not whole."""
    return b"data: " + write_error(error, call_id) + b"\n\n"


def _own_words(body: bytes) -> Iterator[tuple[str, str]]:
    said = _json(body)
    error = said.get("error") if isinstance(said, dict) else None
    for name in ("type", "param", "code"):
        value = error.get(name) if isinstance(error, dict) else None
        if isinstance(value, str) and 0 < len(value) <= 100:
            yield name, value


def read_error(status: int, body: bytes) -> UpstreamRefused:
    """Return a provider's error answer as an exception; unreadable bodies included.

    Args:
        status: Its HTTP status.
        body: What it said.
    """
    text = _text(body)
    message = f"The provider answered {status}"
    return UpstreamRefused(f"{message}: {text}" if text else message, status=status, body=body)


def error_within(body: bytes) -> UpstreamRefused:
    """Return an error that came inside a 200 answer, with the status that it gives itself."""
    message = f"The provider failed within its answer: {_text(body) or 'it does not say why'}"
    return UpstreamRefused(message, status=_status(_json(body)), body=body)


def _text(body: bytes) -> str:
    said = _json(body)
    return _tidy(_page(body) if said is _NO_JSON else _message(said))


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _NO_JSON


def _status(said: object) -> int:
    """Return the status in an error: OpenRouter's `code`, Groq's `status_code`; else 502.

    A refused credential is the gateway's own, so its status is not for the caller.
    """
    error = said.get("error", said) if isinstance(said, dict) else None
    for name in ("status_code", "status", "code"):
        value = error.get(name) if isinstance(error, dict) else None
        if type(value) is int and 400 <= value <= 599 and value not in (401, 403, 407):
            return value
    return 502


def _message(said: object, depth: int = 0) -> str:
    """Return the words for a person in a decoded error, wherever they are; "" for none."""
    if isinstance(said, str):
        return said
    if depth > 4:
        return ""
    if isinstance(said, list):
        return "; ".join(filter(None, (_message(one, depth + 1) for one in said[:3])))
    return _of_object(said, depth) if isinstance(said, dict) else ""


def _of_object(said: dict[str, Any], depth: int) -> str:
    if isinstance(where := said.get("loc"), list):  # FastAPI: which field, and what is wrong
        return f"{'.'.join(map(str, where))}: {_message(said.get('msg'), depth + 1)}"
    for name in ("error", "message", "detail", "details", "msg", "errors", "error_description"):
        if text := _message(said.get(name), depth + 1):
            return text + _behind(said)
    return ""


def _behind(said: dict[str, Any]) -> str:
    """Return what OpenRouter's own provider said: its message is only "Provider returned error"."""
    metadata = said.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    if not isinstance(raw, str) or not raw:
        return ""
    return f": {_message(_json(raw.encode())) or raw}"


def _page(body: bytes) -> str:
    """Return what a body that is no JSON says: a page's title, or the text itself."""
    text = body[:20_000].decode("utf-8", "replace").strip()
    if not text.startswith("<"):
        return text
    title = _TITLE.search(text)
    return re.sub(r"<[^>]*>", " ", title[2]) if title else "a page of HTML"


def _tidy(text: str) -> str:
    """Return a text on one line, without what looks like a key, and not too long."""
    text = _UNSEEN.sub(" ", text[: 4 * _MOST]).strip().rstrip(".")
    text = _SECRET.sub("[key]", text)
    return text if len(text) <= _MOST - 40 else text[: _MOST - 43] + "..."
