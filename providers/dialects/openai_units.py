"""OpenAI's endpoints that sell something else than tokens (`units.py`), passed through.

Bodies pass as they came but for the model's name: JSON, or the form of an audio file. What is paid
for is counted in the request where that says it, and in the answer where it does.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

import msgspec

from tollway.providers.canon import Bound, Call, Endpoint, Usage
from tollway.providers.dialects.dialect import Edits
from tollway.providers.dialects.forms import BOUNDARY, Part, form_of
from tollway.providers.dialects.json_edit import Field, edit, fields
from tollway.providers.dialects.openai_bound import Tally, strings
from tollway.providers.dialects.openai_errors import error_within
from tollway.providers.dialects.openai_quirks import seconds_billed
from tollway.providers.errors import RequestInvalid, UpstreamRefused
from tollway.providers.price_service import STANDARD
from tollway.providers.sse import Event
from tollway.providers.units import UNITS, image_kind

_NAME = "openai_chat"
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)
# Cohere's search unit is a question and up to 100 documents; a longer document than 500 tokens
# counts as several (cohere.com/pricing). What a question leaves of those 500 is at least this.
_DOCUMENTS, _PIECE = 100, 100
_MOST_IMAGES = 10_000
# What other servers read of an image's size, beside `size` or in its place.
_OTHER_SIZES = frozenset(
    {"width", "height", "aspect_ratio", "resolution", "image_size", "steps", "extra_body"}
)
# What the gate reads; Go's JSON reader, behind some servers, minds no case.
# How many images are asked for, in the words of SiliconFlow, fal and DeepInfra, Novita, Fireworks,
# and whoever runs a pipeline of Hugging Face's.
_NUMBERS = ("n", "batch_size", "num_images", "image_num", "samples", "num_images_per_prompt")
# Seedream makes a series of its own choice: at most so many.
_SERIES, _LONGEST_SERIES = "sequential_image_generation", 15
_READ = frozenset(
    {
        *("model", "stream", "stream_format", "documents", "input", "quality", "size"),
        *(*_NUMBERS, _SERIES),
    }
)
# Recordings that Groq and Mistral fetch, in place of the file that is here.
_ELSEWHERE = ("url", "file_url", "file_id")
_MOST_CHUNKS = 64  # of a WAV file before its sound


def peek(endpoint: Endpoint, body: bytes) -> Call:
    """Return what the gate must know of a request.

    Raises:
        RequestInvalid: It is no form or no JSON object, it asks for a stream, or it names no model.
    """
    if UNITS[endpoint].multipart:
        form = form_of(body)
        model: Any = _value(body, form, "model")
        stream = _value(body, form, "stream").lower() in ("true", "1")
        scan: object = form
    else:
        known = _plain(fields(body))
        said = {name: _decoded(known[name]) for name in ("model", "stream", "stream_format")
                if name in known}  # fmt: skip
        model = said.get("model")
        stream = bool(said.get("stream")) or said.get("stream_format") == "sse"
        scan = known
    if not isinstance(model, str) or not model:
        raise RequestInvalid("`model` is missing; it must be a string", param="model")
    if stream:
        raise RequestInvalid(
            f"`/v1{UNITS[endpoint].path}` is answered whole", hint="Leave `stream` out",
            param="stream",
        )  # fmt: skip
    return Call(endpoint=endpoint, dialect=_NAME, model=model, body=body, scan=scan)


def _plain(known: dict[str, Field]) -> dict[str, Field]:
    """Return the fields of a body, none of which is written as another one but for its case."""
    for name in known:
        if name not in _READ and (meant := name.casefold()) in _READ:
            raise RequestInvalid(
                f"`{name}` is not a field", hint=f"Write it as `{meant}`", param=name
            )
    return known


def edited(call: Call, edits: Edits) -> bytes:
    """Return the body with the model's name there."""
    if edits.model == call.model:
        return call.body
    if not UNITS[call.endpoint].multipart:
        return edit(call.body, fields(call.body), {"model": msgspec.json.encode(edits.model)})
    place = form_of(call.body)["model"]
    return call.body[: place.begin] + edits.model.encode() + call.body[place.end :]


def content_type(call: Call) -> str:
    """Return the media type of a request's body."""
    if not UNITS[call.endpoint].multipart:
        return "application/json"
    found = BOUNDARY.match(call.body)
    assert found is not None  # noqa: S101 - `peek` has seen it
    return f'multipart/form-data; boundary="{found[1].decode("latin-1")}"'


def bound(call: Call) -> Bound:
    """Return how many of the things that are paid for a call may come to, in `searches`.

    Raises:
        RequestInvalid: The request does not say what is to be done.
    """
    unbounded: tuple[str, ...] = ()
    service = STANDARD
    if UNITS[call.endpoint].multipart:
        form = form_of(call.body)
        seconds = _seconds(call.body, form)
        count = seconds or 0
        unbounded = tuple(name for name in _ELSEWHERE if name in form)
        if not unbounded and seconds is None:
            unbounded = ("file",)
    else:
        body = _decoded_body(call.body)
        tally = Tally()
        tally.text(body)
        if tally.strings != strings(call.body):
            raise RequestInvalid("A key stands twice in an object within the request")
        count = _COUNTS[call.endpoint](body)
        if call.endpoint == "images" and body.keys().isdisjoint(_OTHER_SIZES):
            service = image_kind(body.get("quality"), body.get("size")) or STANDARD
    return Bound(0, 0, media=False, searches=count, service=service, unbounded=unbounded)


def _of_rerank(body: dict[str, Any]) -> int:
    documents = body.get("documents")
    if not isinstance(documents, list) or not documents:
        raise RequestInvalid("`documents` must be a list of texts", param="documents")
    pieces = sum(1 + len(msgspec.json.encode(one)) // _PIECE for one in documents)
    return ceil(pieces / _DOCUMENTS)


def _of_images(body: dict[str, Any]) -> int:
    most = 1
    for name in _NUMBERS:
        n = body.get(name)
        if n is None:
            continue
        if type(n) is not int or not 1 <= n <= _MOST_IMAGES:
            raise RequestInvalid(f"`{name}` must be a whole number of at least 1", param=name)
        most = max(most, n)
    series = body.get(_SERIES) not in (None, "disabled")
    return most * _LONGEST_SERIES if series else most


def _of_speech(body: dict[str, Any]) -> int:
    text = body.get("input")
    if not isinstance(text, str) or not text:
        raise RequestInvalid("`input` must be a text", param="input")
    return len(text)


_COUNTS: Mapping[Endpoint, Callable[[dict[str, Any]], int]] = {
    "rerank": _of_rerank,
    "images": _of_images,
    "speech": _of_speech,
    "moderations": lambda _body: 1,
}


class Reader:
    """Counts what one attempt's answer came to; see `AnswerReader` for what its fields say."""

    def __init__(self, call: Call, quirks: frozenset[str]) -> None:
        self.usage: Usage | None = None
        self.produced = 0
        self.begun = False
        self.ended = False
        self.last = False
        self.failed: UpstreamRefused | None = None
        self.raw_usage = ""
        self.upstream_id = ""
        self.service = ""
        self.model = ""
        self.finish_reasons: list[str] = []
        self.alike = None
        self._call = call
        self._quirks = quirks

    def event(self, event: Event) -> bool:
        """Pass an event of a stream that nobody asked for."""
        return True

    def end_early(self) -> bytes:
        """Return nothing: these are no streams."""
        return b""

    def whole(self, body: bytes) -> None:
        """Read a whole answer: JSON, a text, or the sound itself."""
        endpoint = self._call.endpoint
        try:
            said = _ANY.decode(body)
        except _UNREADABLE:
            said = None
        if isinstance(said, dict) and said.get("error"):
            self.failed = error_within(body)
            return
        plain = endpoint in ("speech", "transcriptions")  # may be no JSON: a sound, or SRT
        page = body[:64].lstrip().startswith(b"<")
        self.begun = self.ended = isinstance(said, dict) or (plain and bool(body) and not page)
        if not self.begun:
            return
        count = self._count(said if isinstance(said, dict) else {})
        if count is not None:
            self.usage = Usage(searches=count)
            self.raw_usage = msgspec.json.encode({UNITS[endpoint].key: count}).decode()

    def _count(self, said: dict[str, Any]) -> int | None:
        """Return what an answer says that it came to; what the request says where that decides."""
        match self._call.endpoint:
            case "images":
                made = said.get("data")
                self.service = image_kind(said.get("quality"), said.get("size"))
                return len(made) if isinstance(made, list) and made else None
            case "rerank":
                meta = said.get("meta")
                billed = meta.get("billed_units") if isinstance(meta, dict) else None
                return _whole(billed.get("search_units") if isinstance(billed, dict) else None)
            case "transcriptions":
                used = said.get("usage")
                told = used.get("seconds") if isinstance(used, dict) else None
                heard = _whole(told if told is not None else said.get("duration"))
                return heard and seconds_billed(self._quirks, heard)
        return bound(self._call).searches


def _whole(value: object) -> int | None:
    if type(value) in (int, float) and 0 < float(value) < 1e9:  # type: ignore[arg-type]
        return ceil(float(value))  # type: ignore[arg-type]
    return None


def _decoded(field: Field) -> Any:
    try:
        return _ANY.decode(field.raw)
    except _UNREADABLE:
        return None


def _decoded_body(body: bytes) -> dict[str, Any]:
    try:
        said = _ANY.decode(body)
    except _UNREADABLE:
        said = None
    if not isinstance(said, dict):
        raise RequestInvalid("The request's body must be a JSON object")
    return said


def _value(body: bytes, form: dict[str, Part], name: str) -> str:
    place = form.get(name)
    return body[place.begin : place.end].decode("utf-8", "replace").strip() if place else ""


def _seconds(body: bytes, form: dict[str, Part]) -> int | None:
    """Return how long a WAV file is, by its own size and rate; None for any other file."""
    place = form.get("file")
    if place is None:
        raise RequestInvalid("`file` is missing from the form", param="file")
    data = body[place.begin : place.end]
    at = _format_at(data)
    if at is None or len(data) < at + 24:
        return None
    told = [
        int.from_bytes(data[at + first : at + first + 2], "little") for first in (8, 10, 20, 22)
    ]
    kind, channels, block, bits = told
    rate = int.from_bytes(data[at + 12 : at + 16], "little")
    frame = min(block, channels * ((bits + 7) // 8))  # some go by the one, some by the other
    if kind not in (1, 3) or not rate or not frame:  # samples, uncompressed
        return None
    return ceil(len(data) / (rate * frame))


def _format_at(data: bytes) -> int | None:
    """Return where a WAV file's one chunk of its format begins; None where readers may differ.

    They do on the byte behind a chunk of odd length, and on which of two formats holds.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    at, found = 12, None
    for _ in range(_MOST_CHUNKS):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"data":
            return found
        if len(name) < 4 or size % 2 or (name == b"fmt " and found is not None):
            return None
        found = at if name == b"fmt " else found
        at += 8 + size
    return None
