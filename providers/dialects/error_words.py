"""What providers' errors say, in the many shapes that they give them: words for a person."""

import re
from typing import Any

import msgspec

from tollway.providers.errors import UpstreamRefused

# A message this long says all that a person will read; a provider's may hold the whole prompt.
_MOST = 500

# Where an error has its words, the best first; the last holds one of Responses.
_WORDS = (
    *("error", "message", "detail", "details", "msg", "errors", "error_description"),
    "response",
)
_STATUSES = {
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "rate_limit_error": 429,
    # What is wrong with a request, and found only once a response has begun (OpenAI's library).
    **dict.fromkeys(
        (
            *("context_length_exceeded", "invalid_prompt", "bio_policy"),
            *("misalignment_policy_violation", "image_content_policy_violation"),
            *("invalid_image", "invalid_image_format", "invalid_base64_image", "invalid_image_url"),
            *("image_too_large", "image_too_small", "image_parse_error", "invalid_image_mode"),
            *("image_file_too_large", "unsupported_image_media_type", "empty_image_file"),
            *("failed_to_download_image", "image_file_not_found"),
        ),
        400,
    ),
}
_NO_JSON = object()
_SECRET = re.compile(r"\b(?:sk|tw|gsk|xai|pplx|csk|fw|key)-[\w*.-]{6,}|\bBearer\s+\S+", re.ASCII)
_TITLE = re.compile(r"<(title|h1)[^>]*>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_UNSEEN = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")


def read_error(status: int, body: bytes) -> UpstreamRefused:
    """Return a provider's error answer as an exception; unreadable bodies included.

    Args:
        status: Its HTTP status.
        body: What it said.
    """
    text = words_in(body)
    message = f"The provider answered {status}"
    return UpstreamRefused(f"{message}: {text}" if text else message, status=status, body=body)


def error_within(body: bytes) -> UpstreamRefused:
    """Return an error that came inside a 200 answer, with the status that it gives itself."""
    message = f"The provider failed within its answer: {words_in(body) or 'it does not say why'}"
    return UpstreamRefused(message, status=_status(json_in(body)), body=body)


def words_in(body: bytes) -> str:
    """Return what an error's body says, for a person; "" where it says nothing."""
    said = json_in(body)
    return _tidy(_page(body) if said is _NO_JSON else _message(said))


def json_in(body: bytes) -> Any:
    """Return the JSON in a body; something that is no object, list or text where there is none."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _NO_JSON


def error_in(said: object) -> dict[str, Any]:
    """Return what of a decoded body is the error itself; an empty one where there is none.

    It stands in `error`, in the `error` of a response that failed, or is the whole body.
    """
    if isinstance(said, dict) and isinstance(answer := said.get("response"), dict):
        said = answer
    inner = said.get("error", said) if isinstance(said, dict) else None
    return inner if isinstance(inner, dict) else {}


def _status(said: object) -> int:
    """Return the status in an error: OpenRouter's `code`, Groq's `status_code`; else 502.

    OpenAI's words stand for the status that they come with where there is one. A refused
    credential is the gateway's own, so its status is not for the caller.
    """
    error = error_in(said)
    for name in ("status_code", "status", "code"):
        value = error.get(name)
        if type(value) is int and 400 <= value <= 599 and value not in (401, 403, 407):
            return value
    words = [str(error.get(name)) for name in ("code", "type")]
    return next((_STATUSES[word] for word in words if word in _STATUSES), 502)


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
    for name in _WORDS:
        if text := _message(said.get(name), depth + 1):
            return text + _behind(said)
    return ""


def _behind(said: dict[str, Any]) -> str:
    """Return what OpenRouter's own provider said: its message is only "Provider returned error"."""
    metadata = said.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    if not isinstance(raw, str) or not raw:
        return ""
    return f": {_message(json_in(raw.encode())) or raw}"


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
