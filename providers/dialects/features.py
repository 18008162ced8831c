"""What a request uses, whatever dialect it is in: what a route's conditions ask about.

It is read from the request's own JSON, not from its translation: what no codec knows yet must
not keep a call from being routed. Nothing here raises on a request that `peek` has taken.
"""

from typing import Any

import msgspec

from tollway.providers.canon import Call
from tollway.providers.tokens import PICTURE

# English text and code have about four bytes to a token.
_BYTES_A_TOKEN = 4
_IMAGES = frozenset({"image_url", "input_image", "image"})
_FILES = frozenset({"file", "input_file", "document", "container_upload", "video_url"})
_SOUNDS = frozenset({"input_audio", "audio", "audio_url"})
# Gemini's, in both of the spellings that Google takes.
_BLOBS = frozenset({"inlineData", "inline_data", "fileData", "file_data"})
# Not read by the model, or not as text.
_UNREAD = frozenset(
    {
        *("signature", "thoughtSignature", "thought_signature", "encrypted_content", "data"),
        *("id", "call_id", "tool_use_id", "tool_call_id", "model", "metadata", "user"),
        *("prompt_cache_key", "previous_response_id", "safety_identifier"),
    }
)
_NO_EFFORT = (None, "none")


class Features(msgspec.Struct, frozen=True, gc=False):
    """What a request uses. `tokens` are those of its input, estimated as docs/routing.md says."""

    tokens: int = 0
    tools: bool = False
    images: bool = False
    files: bool = False
    schema: bool = False
    reasoning: bool = False


def features(call: Call) -> Features:
    """Return what a request uses; nothing at all for a body that is no JSON object."""
    try:
        said = msgspec.json.decode(call.body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return Features()
    if not isinstance(said, dict):
        return Features()
    seen = _Seen()
    seen.walk(said)
    options = _table(said, "generationConfig", "generation_config")
    return Features(
        tokens=-(-seen.bytes // _BYTES_A_TOKEN) + seen.numbers + PICTURE * seen.images,
        tools=bool(said.get("tools") or said.get("functions")),
        images=seen.images > 0,
        files=seen.files,
        schema=_has_schema(said, options),
        reasoning=_reasons(said, options),
    )


class _Seen:
    """What a walk through a request has met."""

    def __init__(self) -> None:
        self.bytes = 0
        self.numbers = 0  # of lists of token ids
        self.images = 0
        self.files = False

    def walk(self, said: object) -> None:
        stack = [said]
        while stack:
            one = stack.pop()
            if type(one) is str:
                self.bytes += len(one) if one.isascii() else len(one.encode("utf-8", "replace"))
            elif type(one) is list:
                if one and type(one[0]) is int:
                    self.numbers += len(one)
                else:
                    stack += one
            elif type(one) is dict and not self._is_media(one):
                for key, value in one.items():
                    if key in _BLOBS:
                        self._blob(value)
                    elif key not in _UNREAD:
                        self.bytes += len(key)
                        stack.append(value)

    def _is_media(self, one: dict[str, Any]) -> bool:
        """Take note of a part that is no text; True where its bytes are none either."""
        kind = one.get("type")
        if not isinstance(kind, str):
            return False
        if kind in _IMAGES:
            self.images += 1
            return True
        if kind in _FILES:
            self.files = True
            source = one.get("source")
            return not (isinstance(source, dict) and source.get("type") in ("text", "content"))
        return kind in _SOUNDS

    def _blob(self, value: object) -> None:
        media = value if isinstance(value, dict) else {}
        kind = media.get("mimeType") or media.get("mime_type")
        if isinstance(kind, str) and kind.startswith("image/"):
            self.images += 1
        elif not (isinstance(kind, str) and kind.startswith("audio/")):
            self.files = True


def _table(said: object, *names: str) -> dict[str, Any]:
    """Return the first of some members that is an object, else an empty one."""
    if isinstance(said, dict):
        for name in names:
            if isinstance(found := said.get(name), dict):
                return found
    return {}


def _has_schema(said: dict[str, Any], options: dict[str, Any]) -> bool:
    config = _table(said, "output_config")
    formats = (
        _table(said, "response_format"),
        _table(_table(said, "text"), "format"),
        _table(said, "output_format"),
        _table(config, "format"),
    )
    if any(one.get("type") == "json_schema" for one in formats):
        return True
    names = ("responseSchema", "response_schema", "responseJsonSchema", "response_json_schema")
    return any(options.get(name) for name in names)


def _reasons(said: dict[str, Any], options: dict[str, Any]) -> bool:
    if said.get("reasoning_effort") not in _NO_EFFORT:
        return True
    reasoning = _table(said, "reasoning")
    if reasoning.get("effort") not in _NO_EFFORT or reasoning.get("enabled") is True:
        return True
    if reasoning.get("max_tokens"):
        return True
    if _table(said, "thinking").get("type") in ("enabled", "adaptive"):
        return True
    thinks = _table(options, "thinkingConfig", "thinking_config")
    budget = thinks.get("thinkingBudget", thinks.get("thinking_budget"))
    level = thinks.get("thinkingLevel", thinks.get("thinking_level"))
    return bool(budget) or level is not None
