"""Reads the parts of a chat message's content, as OpenAI has them and as those near it do."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from tollway.providers.conversation import (
    Audio,
    File,
    Image,
    Lifetime,
    Opaque,
    Part,
    Refusal,
    Source,
    Text,
)
from tollway.providers.dialects import mistral_parts
from tollway.providers.dialects.wire import data_url, decoded, file_data
from tollway.providers.errors import RequestInvalid

NAME: Final = "openai_chat"


class _ImageUrl(msgspec.Struct):
    url: str
    detail: str | None = None


class _Sound(msgspec.Struct):
    data: str
    format: str = "wav"


class _FileOf(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class Marker(msgspec.Struct):
    """A mark for the provider's cache."""

    ttl: str | None = None


class _PartOf(msgspec.Struct):
    type: str = "text"
    text: str | None = None
    image_url: _ImageUrl | str | None = None
    video_url: _ImageUrl | str | None = None
    input_audio: _Sound | str | None = None
    file: _FileOf | None = None
    refusal: str | None = None
    thinking: Any = None
    signature: str | None = None
    document_url: str | None = None
    document_name: str | None = None
    file_id: str | None = None
    cache_control: Marker | None = None
    prompt_cache_breakpoint: Marker | None = None


_PART = msgspec.json.Decoder(_PartOf)


def parts_of(raw: msgspec.Raw, where: str) -> Iterator[Part]:
    """Yield what one entry of a message's content says; `Opaque` where we do not know it.

    Raises:
        RequestInvalid: A field has the wrong type; `param` names it.
    """
    part = decoded(_PART, raw, where)
    cache = lifetime(part.cache_control) or lifetime(part.prompt_cache_breakpoint)
    if part.type == "text" and part.text is not None:
        yield Text(part.text, cache=cache)
    elif part.type == "image_url" and part.image_url is not None:
        image = part.image_url
        url, detail = (image, "") if isinstance(image, str) else (image.url, image.detail or "")
        yield Image(data_url(url), detail, cache)
    elif part.type == "video_url" and part.video_url is not None:
        video = part.video_url
        yield File(_video(video if isinstance(video, str) else video.url), cache=cache)
    elif part.type == "input_audio" and part.input_audio is not None:
        yield Audio(_sound(part.input_audio), cache=cache)
    elif part.type == "file" and part.file_id is not None:
        yield File(Source("id", part.file_id), cache=cache)
    elif part.type == "file" and part.file is not None:
        if not (part.file.file_data or part.file.file_id):
            raise RequestInvalid(f"`{where}.file` needs `file_data` or `file_id`", param=where)
        yield _file(part.file, cache)
    elif part.type == "refusal" and part.refusal is not None:
        yield Refusal(part.refusal)
    elif part.type == "thinking":
        yield mistral_parts.thinking(part.thinking, part.signature)
    elif part.type == "document_url" and part.document_url is not None:
        yield File(data_url(part.document_url), part.document_name or "", cache=cache)
    else:
        yield Opaque(NAME, bytes(raw), part.type, cache)


def _sound(said: _Sound | str) -> Source:
    if isinstance(said, str):
        return mistral_parts.sound(said)
    return Source("base64", said.data, f"audio/{said.format}")


def _video(url: str) -> Source:
    """Return where a video is; of one on the web that is all that is known."""
    source = data_url(url)
    return source if source.media_type else msgspec.structs.replace(source, media_type="video/mp4")


def _file(file: _FileOf, cache: Lifetime | None) -> File:
    stored = file.file_id is not None
    source = Source("id", file.file_id or "") if stored else file_data(file.file_data or "")
    return File(source, file.filename or "", cache=cache)


def lifetime(marker: Marker | None) -> Lifetime | None:
    """Return for how long a mark asks to cache; None where there is none."""
    if marker is None:
        return None
    return "1h" if marker.ttl in ("1h", "12h", "24h") else "5m"
