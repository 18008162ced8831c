"""Endpoints that sell something else than tokens: held, settled and booked like any call."""

import asyncio
import io
import struct
import wave
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import msgspec
import openai
import pytest
import pytest_asyncio
from clouds import Cloud, cloud
from gateway import KEY, Gateway
from shell import Reply, Running, running

from tollway.daemon.config.load import load
from tollway.daemon.ledger.reprice import Result, reprice
from tollway.daemon.pricing import in_force
from tollway.providers.canon import Call
from tollway.providers.dialects.dialect import Edits
from tollway.providers.dialects.openai_units import bound, edited, peek
from tollway.providers.errors import RequestInvalid

PRICES = """
[prices."up/*"]
input = 0
output = 0
rerank = 0.002
image = 0.04
audio_minute = 0.006
speech = 15
moderation = 0
"""


def config(port: int, prices: str = PRICES, budget: str = "1/day") -> str:
    """Return a configuration with a server of OpenAI's dialect, and Cohere."""
    return f"""
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{port}/v1"
[providers.cohere]
kind = "cohere"
base_url = "http://127.0.0.1:{port}"
api_key = "env:HOME"
{prices}
[prices."cohere/rerank-v3.5"]
input = 0
output = 0
rerank = 0.002
[groups.all]
models = ["*"]
[users.ann]
groups = ["all"]
budget = ["{budget}"]
[keys.laptop]
hash = "sha256:{sha256(KEY.encode()).hexdigest()}"
user = "ann"
"""


@pytest_asyncio.fixture
async def both() -> AsyncIterator[tuple[Cloud, Running]]:
    """Yield an upstream and the gateway before it; in the end nothing is held."""
    async with cloud() as up, running(config(up.port), server="") as daemon:
        yield up, daemon
        states = daemon.server.daemon.gate.purse.states()
        assert all(state.held_nanousd == 0 for state in states)


async def ask(daemon: Running, path: str, **said: Any) -> Reply:
    """Ask with JSON."""
    return await Gateway(daemon, []).ask(msgspec.json.encode({"model": "up/m", **said}), path)


RERANK = {"query": "Q", "documents": ["a", "b"]}
ANSWERS: list[tuple[str, dict[str, Any], bytes, str, int]] = [
    ("/v1/rerank", RERANK, b'{"meta":{"billed_units":{"search_units":1}}}', "", 2_000_000),
    ("/v1/rerank", {**RERANK, "documents": ["x" * 900] * 20}, b'{"results":[]}', "est", 4_000_000),
    ("/v1/images/generations", {"prompt": "a cat", "n": 3}, b'{"data":[{},{}]}', "", 80_000_000),
    ("/v1/moderations", {"input": "Hi"}, b'{"results":[]}', "", 0),
    ("/v1/audio/speech", {"input": "Hello", "voice": "x"}, b"ID3\x00\xff\xfb", "", 75_000),
]  # fmt: skip


@pytest.mark.parametrize(("path", "said", "answer", "how", "cost"), ANSWERS)
async def test_what_is_sold_is_counted_and_booked(
    both: tuple[Cloud, Running], path: str, said: dict[str, Any], answer: bytes, how: str, cost: int
) -> None:
    """By the answer where it tells, else by the request; the bytes are the provider's."""
    up, daemon = both
    up.answer = (200, "audio/mpeg" if "speech" in path else "application/json", answer)
    reply = await ask(daemon, path, **said)
    assert (reply.status, reply.body) == (200, answer)
    assert up.asked[-1][0] == path
    assert up.asked[-1][2] == {"model": "m", **said}
    row = await Gateway(daemon, []).row(reply)
    assert (row.call.cost_nanousd, bool(row.call.estimated)) == (cost, how == "est")
    assert row.call.endpoint == path.rpartition("/")[2].replace("generations", "images")


async def test_what_is_sold_is_priced_anew_by_its_own_unit(both: tuple[Cloud, Running]) -> None:
    """The tokens' price says nothing of it: unchanged prices change nothing, a dearer one its own.

    Beside an estimate, which is left.
    """
    up, daemon = both
    for path, said, answer, _, _ in ANSWERS:
        up.answer = (200, "audio/mpeg" if "speech" in path else "application/json", answer)
        await Gateway(daemon, []).row(await ask(daemon, path, **said))
    path_, text = daemon.server.daemon.ledger.path, daemon.config.read_text()

    async def anew() -> Result:
        terms = in_force(load(daemon.config))
        return await asyncio.to_thread(reprice, path_, terms, (0, 2**60), apply=False)

    found = await anew()
    assert (found.attempts, found.changed, found.left) == (5, 0, 1), found.changes
    daemon.config.write_text(text.replace("image = 0.04", "image = 0.05"))
    found = await anew()
    assert [(one.before_nanousd, one.after_nanousd) for one in found.changes] == [
        (80_000_000, 100_000_000)
    ]
    daemon.config.write_text(text.replace("image = 0.04\n", ""))
    found = await anew()  # a price that is gone leaves what it made
    assert (found.changed, found.left) == (0, 2)


async def test_cohere_reranks_at_its_own_path(both: tuple[Cloud, Running]) -> None:
    """What clients send for it Cohere takes as it is."""
    up, daemon = both
    up.answer = (200, "application/json", b'{"meta":{"billed_units":{"search_units":2}}}')
    reply = await ask(daemon, "/v1/rerank", **{**RERANK, "model": "cohere/rerank-v3.5"})
    assert (reply.status, up.asked[-1][0]) == (200, "/v2/rerank")
    assert (await Gateway(daemon, []).row(reply)).call.cost_nanousd == 4_000_000


def sound(seconds: int) -> bytes:
    """Return a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(b"\0\0" * 8000 * seconds)
    return file.getvalue()


async def test_openai_s_library_sends_a_recording(both: tuple[Cloud, Running]) -> None:
    """The form passes byte for byte but for the model; a WAV file says how long it is."""
    up, daemon = both
    up.forms = True
    url = f"http://127.0.0.1:{daemon.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        up.answer = (
            200,
            "application/json",
            b'{"text":"Hi","usage":{"type":"duration","seconds":90}}',
        )
        said = await client.audio.transcriptions.create(
            model="up/whisper-1", file=("a.wav", sound(90))
        )
        assert said.text == "Hi"
        assert up.raw.count(b"up/whisper-1") == 0 and b"\r\n\r\nwhisper-1\r\n" in up.raw
        assert sound(90) in up.raw
        assert up.asked[-1][1]["content-type"].startswith("multipart/form-data; boundary=")
        with pytest.raises(openai.APIStatusError) as caught:
            await client.audio.transcriptions.create(model="up/w", file=("a.mp3", b"\xff\xfb\0"))
        assert caught.value.status_code == 402
        assert "longest_audio = 25" in str(caught.value)
    before = len(up.asked)
    async with cloud() as other:
        other.forms = True
        more = PRICES + "longest_audio = 10\n"
        async with running(config(other.port, more), server="") as second:
            url = f"http://127.0.0.1:{second.port}/v1"
            async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
                other.answer = (200, "text/plain", b"1\n00:00 --> 00:01\nHi\n")
                text: Any = await client.audio.transcriptions.create(
                    model="up/w", file=("a.mp3", b"\xff\xfb\0"), response_format="srt"
                )
                assert "Hi" in str(text)
            states = second.server.daemon.gate.purse.states()
            # No word of how long it was, so that it is what was held for it: ten minutes.
            assert [state.settled_nanousd for state in states] == [60_000_000]
    assert len(up.asked) == before


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a WAV file."""
    return name + struct.pack("<I", len(data)) + data


def hidden(name: bytes = b"LIST", more: bytes = b"") -> bytes:
    """Return ten minutes behind a chunk that holds what looks like another format."""
    told = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 400_000_000, 0, 8, 64))
    real = sound(600)
    return real[:12] + (told if name == b"fmt " else chunk(name, told + more)) + real[12:]


def lying() -> bytes:
    """Return ten minutes whose frames are said to be longer than their samples are."""
    real = sound(600)
    at = real.index(b"fmt ") + 20
    return real[:at] + b"\xff\xff" + real[at + 2 :]


@pytest.mark.parametrize(
    ("file", "seconds"),
    [
        (sound(600), 601),
        (lying(), 601),
        (hidden(), 601),
        (hidden(b"fmt "), None),
        (hidden(more=b"x"), None),
        (sound(600)[:30], None),
        (b"RIFF\0\0\0\0WAVE" + chunk(b"JUNK", b"") * 100, None),
    ],
    ids=["plain", "lying", "hidden", "two", "odd", "cut", "many"],
)
def test_a_recording_is_never_held_for_less_than_its_length(
    file: bytes, seconds: int | None
) -> None:
    """Whatever else its head says: what readers may take otherwise is of no known length."""
    said = bound(peek("transcriptions", form(("model", b"up/m"), ("file", file))))
    assert (said.searches, said.unbounded) == (seconds or 0, () if seconds else ("file",))


async def test_what_has_no_price_of_its_unit_is_a_404_that_names_the_line(
    both: tuple[Cloud, Running],
) -> None:
    """Tokens' prices say nothing of it; nothing is sent."""
    up, daemon = both
    reply = await ask(daemon, "/v1/images/generations", model="cohere/rerank-v3.5", prompt="a cat")
    assert reply.status == 404  # it speaks another dialect
    assert reply.json()["error"]["code"] == "endpoint_not_served"
    async with running(
        config(up.port, '[prices."up/*"]\ninput = 1\noutput = 2\n'), server=""
    ) as one:
        reply = await ask(one, "/v1/images/generations", prompt="a cat")
        assert reply.status == 404
        assert "`image = ...` (dollars for each image)" in reply.json()["error"]["message"]
    assert not up.asked
    async with running(config(up.port, '[prices]\n"up/*" = "free"\n'), server="") as one:
        up.answer = (200, "application/json", b'{"data":[{}]}')
        reply = await ask(one, "/v1/images/generations", prompt="a cat")
        assert (reply.status, reply.headers["x-tollway-cost-usd"]) == (200, "0")


async def test_more_than_the_budget_has_is_never_sent(both: tuple[Cloud, Running]) -> None:
    """The worst case is held before the call leaves."""
    up, daemon = both
    reply = await ask(daemon, "/v1/images/generations", prompt="a cat", n=26)
    assert reply.status == 402
    assert not up.asked


async def test_errors_are_told_and_cost_nothing(both: tuple[Cloud, Running]) -> None:
    """A refusal, a page, an error with status 200."""
    up, daemon = both
    for answer, status in (
        ((400, "application/json", b'{"error":{"message":"Oh"}}'), 400),
        ((200, "text/html", b"<html>Log in</html>"), 502),
        ((200, "application/json", b'{"error":{"message":"Oh","code":503}}'), 503),
    ):
        up.answer = answer
        reply = await ask(daemon, "/v1/audio/speech", input="Hello", voice="x")
        assert reply.status == status, answer
        row = await Gateway(daemon, []).row(reply)
        assert row.call.cost_nanousd == (0 if status != 502 else 75_000)


@pytest.mark.parametrize(
    ("path", "said", "param"),
    [
        ("/v1/rerank", {"query": "Q"}, "documents"),
        ("/v1/images/generations", {"prompt": "x", "n": 0}, "n"),
        ("/v1/images/generations", {"prompt": "x", "stream": True}, "stream"),
        ("/v1/audio/speech", {"voice": "x"}, "input"),
        ("/v1/audio/speech", {"input": "x", "stream_format": "sse"}, "stream"),
        ("/v1/moderations", {"input": "x", "model": None}, "model"),
        ("/v1/images/generations", {"prompt": "x", "Model": "dear"}, "Model"),
        ("/v1/images/generations", {"prompt": "x", "N": 50}, "N"),
        ("/v1/rerank", {**RERANK, "Documents": ["x"] * 900}, "Documents"),
    ],
)
async def test_a_request_that_cannot_be_is_refused_by_its_field(
    both: tuple[Cloud, Running], path: str, said: dict[str, Any], param: str
) -> None:
    """Before anything is held or sent."""
    up, daemon = both
    reply = await ask(daemon, path, **said)
    assert (reply.status, reply.json()["error"]["param"]) == (400, param)
    assert not up.asked


async def test_a_document_does_not_hide_a_longer_one(both: tuple[Cloud, Running]) -> None:
    """Readers differ on which of two keys holds: such a request is no request."""
    up, daemon = both
    hidden = b'{"model":"up/m","query":"Q","documents":[{"text":"%s","text":"a"}]}' % (b"x" * 99999)
    reply = await Gateway(daemon, []).ask(hidden, "/v1/rerank")
    assert (reply.status, up.asked) == (400, [])


def form(*fields: tuple[str, bytes]) -> bytes:
    """Return a form."""
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value)
        for name, value in fields
    ]
    return b"".join(parts) + b"--b--\r\n"


def test_a_form_s_model_is_changed_and_nothing_else() -> None:
    """Whatever the file holds, boundaries of others' and line ends included."""
    file = b"\r\n--c\r\n\r\n\x00model\r\n"
    body = form(("file", file), ("model", b"up/m"), ("prompt", b""))
    call = peek("transcriptions", body)
    assert call.model == "up/m"
    assert edited(call, Edits("m")) == body.replace(b"up/m", b"m")


def part(head: bytes, value: bytes) -> bytes:
    """Return a part of a form with a head of its own."""
    return b"--b\r\n" + head + b"\r\n\r\n" + value + b"\r\n"


SAID = b"Content-Disposition: form-data; "
FORM = form(("model", b"up/m"), ("file", b"x"))


@pytest.mark.parametrize(
    "head",
    [
        SAID + b"name=model",
        SAID + b"name*=utf-8''model",
        SAID + b'filename="; name=x"; name=model',
        SAID + b'name="x"; name="model"',
        SAID + b'name="mod\\el"',
        b'X: "; name="x"\r\n' + SAID + b'name="model"',
        SAID + b'name="x"\r\n' + SAID + b'name="model"',
        SAID + b'\r\n name="model"',
        b"X: y\n" + SAID + b'name="model"',
        b"Content-Type: text/plain",
    ],
)
def test_no_second_model_hides_in_a_form(head: bytes) -> None:
    """Whatever reader stands behind: it would be another model than the one that was allowed."""
    for body in (part(head, b"up/dear") + FORM, FORM[:-7] + part(head, b"up/dear") + b"--b--\r\n"):
        with pytest.raises(RequestInvalid):
            peek("transcriptions", body)
    with pytest.raises(RequestInvalid):
        peek("transcriptions", FORM + part(SAID + b'name="model"', b"up/dear") + b"--b--\r\n")


@pytest.mark.parametrize("name", ["url", "file_url", "file_id"])
async def test_no_recording_elsewhere_hides_behind_a_short_one(
    both: tuple[Cloud, Running], name: str
) -> None:
    """Groq and Mistral fetch one that is named: hours of it, held as the second that is here."""
    up, daemon = both
    body = form(("model", b"up/m"), ("file", sound(1)), (name, b"https://x.example/hours.mp3"))
    kind = "multipart/form-data; boundary=b"
    path = "/v1/audio/transcriptions"
    reply = await Gateway(daemon, []).ask(body, path, **{"content-type": kind})
    assert (reply.status, up.asked) == (402, [])
    assert (reply.json()["error"]["code"], reply.json()["error"]["param"]) == ("unbounded", name)


def test_forms_are_read_as_libraries_write_them() -> None:
    """Names without quotes, file names in two spellings, lists of several values."""
    body = (
        part(SAID + b"name=model", b"up/m")
        + part(SAID + b"name=file; filename=a.wav; filename*=utf-8''a.wav", sound(60))
        + part(b"content-type: text/plain\r\n" + SAID + b'name="prompt"', b"Hi")
        + part(SAID + b'name="timestamp_granularities[]"', b"word")
        + part(SAID + b'name="timestamp_granularities[]"', b"segment")
        + part(SAID + b'filename="a; b.wav"; name="more"', b"x")
        + b"--b--\r\n"
    )
    call = peek("transcriptions", body)
    assert (call.model, bound(call).searches) == ("up/m", 61)
    assert edited(call, Edits("m")) == body.replace(b"up/m", b"m")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        form(("model", b"a"), ("model", b"b"), ("file", b"x")),
        form(("model", b"a"), ("file", b"x"))[:-12],
        form(("file", b"x")),
        form(("model", b"a"), ("stream", b"true"), ("file", b"x")),
        b"--b\r\nx\r\n--b--",
    ],
)
def test_a_broken_form_is_refused(body: bytes) -> None:
    """A field that stands twice may be read otherwise behind us."""
    with pytest.raises(RequestInvalid):
        call: Call = peek("transcriptions", body)
        raise AssertionError(call)
