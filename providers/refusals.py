"""What a provider's refusal means for the next try, by the shapes that providers really send.

Each shape was recorded (`tests/wire`) or is quoted in providers' public issue trackers. A refusal
that is not recognised is taken at its status alone.
"""

import re
from typing import Final, Literal

import msgspec

from tollway.providers.errors import GatewayError, UpstreamRefused

_MOST_BODY = 64 * 1024
# Statuses with which providers refuse a prompt for its length.
_OF_LENGTH: Final = frozenset({400, 413, 422, 500})
# `error.code` and `error.type`: OpenAI and who speaks its dialect, llama.cpp's server, Cohere.
_CODES: Final = frozenset(
    {
        "context_length_exceeded",
        "exceed_context_size_error",
        "model_max_prompt_tokens_exceeded",
        "string_above_max_length",
        "too_many_tokens",
    }
)
_WORDS: Final = re.compile(
    # vLLM, OpenRouter, Ollama, llama.cpp.
    r"maximum context length|context.length.exceeded|exceeds? (?:the |this |its )?(?:model.s )?"
    r"(?:available |maximum |max )?context|max context length"
    # Anthropic, the second with `max_tokens` in the sum.
    r"|prompt is too long|input length and .{0,3}max_tokens.{0,3} exceed context limit"
    r"|input token count.{0,30}exceeds the maximum number of tokens"  # Gemini, Vertex
    r"|input is too long for requested model|too many tokens"  # Bedrock, Cohere
    r"|input tokens exceed the configured limit|too large for model with \d+ maximum context"
    r"|reduce the length of the (?:messages|prompt|input)",
    re.IGNORECASE,
)
# What servers say of a path that they do not have, where they say anything: FastAPI and Go,
# llama.cpp, OpenAI, LM Studio, Express, Azure, Cloudflare. Of a missing model they say more.
_NO_PATH: Final = re.compile(
    r"(?:404:? ?)?(?:(?:file|page|path|route|resource|url) )?not found\.?|method not allowed\.?"
    r"|invalid url\b.*|(?:unknown|unexpected|no such) (?:endpoint|path|route|url)\b.*"
    r"|cannot post .*|no route .*",
    re.IGNORECASE | re.DOTALL,
)
_QUOTA: Final = frozenset(
    {
        *("insufficient_quota", "billing_not_active", "billing_hard_limit_reached"),
        "credit_balance_too_low",
    }
)
# Anthropic's words, which have no code: an empty account, and the limit that its owner has set for
# a month, of the whole or of a workspace.
_UNPAID: Final = re.compile(
    r"credit balance is too low|reached your specified (?:workspace )?api usage limits",
    re.IGNORECASE,
)


# What a refusal says of the key it was sent with: that it is bad, that it may not use the model, or
# that there is no money behind it; "filtered" says that the prompt is at fault, whoever asks.
Verdict = Literal["", "key", "model", "unpaid", "filtered"]


def verdict_of(error: UpstreamRefused) -> Verdict:
    """Return what a refusal says of the key it was sent with; "" for nothing."""
    return error.verdict or verdict(error.upstream_status or error.status, error.body)


def verdict(status: int, body: bytes) -> Verdict:
    """Return what a refusal says of the key it was sent with; "" for nothing.

    A 403 is as often the model's as the key's: OpenAI's and Groq's of a model that a project may
    not use, Bedrock's of one that was not asked for. Who has a bad key is told so for each model.
    """
    if status == 403 and _is_flagged(body):
        return "filtered"
    if is_key_refused(status, body):
        return "model" if status == 403 else "key"
    return "unpaid" if is_unpaid(status, body) else ""


def _is_flagged(body: bytes) -> bool:
    """Whether a refusal is of OpenRouter's moderation, which comes with 403."""
    metadata = _error(body).get("metadata")
    return isinstance(metadata, dict) and "flagged_input" in metadata


def is_overflow(status: int, body: bytes) -> bool:
    """Whether a refusal says that the prompt does not fit into the model's context window."""
    if status not in _OF_LENGTH:
        return False
    return any(code in _CODES for code in _codes(body)) or bool(_WORDS.search(_message(body)))


def is_too_long(error: GatewayError) -> bool:
    """Whether an error is a provider's that the prompt does not fit; within an answer too."""
    if not isinstance(error, UpstreamRefused):
        return False
    status = error.upstream_status or error.status
    return is_overflow(400 if status == 502 else status, error.body)


def is_no_such_path(status: int, body: bytes) -> bool:
    """Whether a refusal is of the path, not of a model or anything else that a request names."""
    if status not in (404, 405):
        return False
    said = body[:_MOST_BODY].decode("utf-8", "replace").strip()
    if not said or said.startswith("<"):  # a page: APIs say in JSON what they do not have
        return True
    error = _error(body)
    words = error.get("message", error.get("detail", error.get("error", said)))
    return isinstance(words, str) and bool(_NO_PATH.fullmatch(words.strip()))


def is_key_refused(status: int, body: bytes) -> bool:
    """Whether a refusal is of the credential itself: 401, 403, or Gemini's 400 for a bad key."""
    return status in (401, 403) or (status == 400 and "api_key_invalid" in _codes(body))


def is_unpaid(status: int, body: bytes) -> bool:
    """Whether a key's account has no money left, which no short wait mends."""
    if status == 402:
        return True
    if status not in (400, 429):
        return False
    return any(code in _QUOTA for code in _codes(body)) or bool(_UNPAID.search(_message(body)))


def _error(body: bytes) -> dict[str, object]:
    try:
        said = msgspec.json.decode(body[:_MOST_BODY])
    except (msgspec.DecodeError, ValueError, RecursionError):  # ValueError: it is no UTF-8
        return {}
    if isinstance(said, list) and said:
        said = said[0]
    if not isinstance(said, dict):
        return {}
    if isinstance(answer := said.get("response"), dict):  # the last event of Responses
        said = answer
    inner = said.get("error")
    if isinstance(inner, str):
        return {"message": inner}
    return inner if isinstance(inner, dict) else said


def _codes(body: bytes) -> set[str]:
    error = _error(body)
    found = [error.get(name) for name in ("code", "type", "error_type", "reason")]
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict):
            found.append(detail.get("reason"))
    return {one.lower() for one in found if isinstance(one, str)}


def _message(body: bytes) -> str:
    message = _error(body).get("message")
    return message[:4096] if isinstance(message, str) else ""
