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
    r"|input is too long for requested model|too many (?:input )?tokens"  # Bedrock, Cohere
    r"|input tokens exceed the configured limit|too large for model with \d+ maximum context"
    r"|reduce the length of the (?:messages|prompt|input)"
    r"|maximum prompt length is \d"  # xAI (cline/cline#3120)
    # SGLang (QwenLM/Qwen3#1321) and vLLM (thu-coai/Glyph#9).
    r"|is longer than the (?:model.s context|maximum model) length"
    # LM Studio's four ways (lmstudio-ai/lmstudio-bug-tracker#546, #2339, anomalyco/opencode#11141,
    # tinyhumansai/openhuman#3550).
    r"|greater than the context length|tokens when context the overflows|n_keep \(\d+\) >= n_ctx"
    r"|context size has been exceeded"
    r"|.inputs. tokens \+ .max_new_tokens. must be"  # Together (BerriAI/litellm#4934)
    r"|context window exceeds limit|exceeded model token limit",  # MiniMax, Kimi
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
# Of thoughts that another provider, or another account of it, has sealed: OpenAI and Azure
# (openai/codex#3573), xAI (NousResearch/hermes-agent#32617), Anthropic (can1357/oh-my-pi#6379),
# Google (google-gemini/gemini-cli#13467, RooCodeInc/Roo-Code#11716).
_SEALED: Final = re.compile(
    r"encrypted.content\b.{0,200}(?:could not be (?:verified|decrypted)|not issued to)"
    r"|could not decrypt the provided encrypted|invalid_encrypted_content"
    r"|(?:corrupted|invalid) thought.?signature|thought.?signature is not valid"
    r"|invalid \W?(?:signature|data)\W{1,3}in \W?(?:redacted_)?thinking\W{1,3}block",
    re.IGNORECASE,
)
_QUOTA: Final = frozenset(
    {
        *("insufficient_quota", "billing_not_active", "billing_hard_limit_reached"),
        *("credit_balance_too_low", "billing_disabled"),  # the second is Google Cloud's, with 403
    }
)
# What has no code: an empty account, and the limit that its owner has set for a month. These are
# the refusal's first words: some quote what the caller wrote (volcengine/volcengine-java-sdk#105),
# and must not take the key from everybody.
_UNPAID: Final = re.compile(
    # Anthropic, of the whole or of a workspace.
    r"your credit balance is too low"
    r"|you have reached your specified (?:workspace )?api usage limits"
    # xAI, with 429 or 403 (continuedev/continue#10373, #12670).
    r"|your team .{1,100} has either used all available credits or reached its monthly"
    r"|your newly created team doesn.t have any credits"
    r"|your prepayment credits are depleted"  # Gemini, with 429 (JeffOtano/roni#125)
    r"|account .{1,100} is suspended, possibly due to reaching the monthly"  # Fireworks, with 412
    r"|key limit exceeded \(",  # OpenRouter, with 403, of what its owner lets a key spend
    re.IGNORECASE,
)
_OF_MONEY: Final = frozenset({400, 403, 412, 429})
# What is no 401: xAI's of a bad key (continuedev/continue#10778), Gemini's of where the account or
# its machine is, Anthropic's and Groq's of an account that is shut.
_OF_KEY: Final = re.compile(
    r"^incorrect api key provided|^user location is not supported"
    r"|^gemini api free tier is not available in your country|^this organization has been disabled",
    re.IGNORECASE,
)
_KEY_CODES: Final = frozenset({"api_key_invalid", "organization_restricted"})
# Groq's, of a call of a tool or of JSON that the model spoilt; asked again, it may not.
_SPOILT: Final = frozenset({"tool_use_failed", "json_validate_failed"})
# A model that there is not, where it is no 404: Mistral and Perplexity name the `type`, Groq has a
# code for one that is no more; DeepSeek, OpenRouter and Bedrock have words alone.
_NO_MODEL_CODES: Final = frozenset({"invalid_model", "model_decommissioned", "model_not_found"})
_NO_MODEL: Final = re.compile(
    r"^model not exist$|is not a valid model id$|^the provided model identifier is invalid"
    r"|^invocation of model id .{1,200} with on-demand throughput isn",
    re.IGNORECASE,
)
# "Flex Tier Capacity Exceeded" (console.groq.com/docs/errors); Cohere's 498 is of the prompt.
NO_ROOM: Final = 498


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
    A page of HTML is a firewall's, which looks at what the prompt says, not at the key.
    """
    if status == 403 and _is_flagged(body):
        return "filtered"
    if status == 403 and is_page(body):
        return ""
    if is_unpaid(status, body):
        return "unpaid"
    if is_key_refused(status, body):
        return "model" if status == 403 else "key"
    return ""


def _is_flagged(body: bytes) -> bool:
    """Whether a 403 is of a moderation: OpenRouter's, xAI's (UKGovernmentBEIS/inspect_ai#2267)."""
    if _message(body).lower().startswith("content violates usage guidelines"):
        return True
    metadata = _error(body).get("metadata")
    return isinstance(metadata, dict) and "flagged_input" in metadata


def is_overflow(status: int, body: bytes) -> bool:
    """Whether a refusal says that the prompt does not fit into the model's context window."""
    if status not in _OF_LENGTH:
        return False
    return any(code in _CODES for code in _codes(body)) or any(
        _WORDS.search(words) for words in (_message(body), _behind(body))
    )


def is_too_long(error: GatewayError) -> bool:
    """Whether an error is a provider's that the prompt does not fit; within an answer too."""
    if not isinstance(error, UpstreamRefused):
        return False
    status = error.upstream_status or error.status
    return is_overflow(400 if status == 502 else status, error.body)


def is_sealed(status: int, body: bytes) -> bool:
    """Whether a refusal says that a provider cannot read thoughts that it was given back."""
    said = body[:_MOST_BODY].decode("utf-8", "replace")
    return status in (400, 422) and _SEALED.search(said) is not None


def is_over_rate(status: int, body: bytes) -> bool:
    """Whether a key may not use so much now, or nobody may, which says nothing of the prompt.

    Groq refuses a prompt that is longer than what a key has for a minute with 413, and with 498
    what its spare machines have no room for.
    """
    if status == NO_ROOM:
        return isinstance(_decoded(body).get("error"), dict)
    return status == 429 or (status == 413 and "rate_limit_exceeded" in _codes(body))


def is_spoilt(status: int, body: bytes) -> bool:
    """Whether a 400 says that what the model made is no answer: nobody's mistake who asked."""
    return status == 400 and not _SPOILT.isdisjoint(_codes(body))


def is_no_such_model(status: int, body: bytes) -> bool:
    """Whether a 400 is what others say with 404: that there is no such model."""
    if status != 400:
        return False
    return not _NO_MODEL_CODES.isdisjoint(_codes(body)) or bool(_NO_MODEL.search(_message(body)))


def is_no_such_path(status: int, body: bytes) -> bool:
    """Whether a refusal is of the path, not of a model or anything else that a request names."""
    if status not in (404, 405):
        return False
    said = body[:_MOST_BODY].decode("utf-8", "replace").strip()
    if not said or is_page(body):
        return True
    error = _error(body)
    words = error.get("message", error.get("detail", error.get("error", said)))
    return isinstance(words, str) and bool(_NO_PATH.fullmatch(words.strip()))


def is_page(body: bytes) -> bool:
    """Whether a refusal is a page: APIs speak JSON, and what stands before them HTML."""
    return body[:_MOST_BODY].lstrip().startswith(b"<")


def is_key_refused(status: int, body: bytes) -> bool:
    """Whether a refusal is of the credential itself: 401, 403, or a 400 that some say it with."""
    if status == 400:
        return not _KEY_CODES.isdisjoint(_codes(body)) or bool(_OF_KEY.search(_message(body)))
    return status in (401, 403)


def is_unpaid(status: int, body: bytes) -> bool:
    """Whether a key's account has no money left, which no short wait mends."""
    if status == 402:
        return True
    if status not in _OF_MONEY:
        return False
    return any(code in _QUOTA for code in _codes(body)) or bool(_UNPAID.match(_message(body)))


def _decoded(body: bytes) -> dict[str, object]:
    try:
        said = msgspec.json.decode(body[:_MOST_BODY])
    except (msgspec.DecodeError, ValueError, RecursionError):  # ValueError: it is no UTF-8
        return {}
    if isinstance(said, list) and said:
        said = said[0]
    return said if isinstance(said, dict) else {}


def _error(body: bytes) -> dict[str, object]:
    said = _decoded(body)
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


def _behind(body: bytes) -> str:
    """Return what OpenRouter's own provider said, of which its message says nothing."""
    metadata = _error(body).get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return raw[:4096] if isinstance(raw, str) else ""


def _message(body: bytes) -> str:
    message = _error(body).get("message")
    return message[:4096] if isinstance(message, str) else ""
