"""Every client's dialect on every kind of upstream, through the gateway and the official libraries.

What becomes of each feature stands in `tests/golden/dialects/`, a file for each pair, and in
`docs/dialects.md`, which is made of them. After a change that is meant,
`TOLLWAY_WRITE_GOLDEN=1 pytest -n 0 tests/whole/test_dialect_matrix.py` writes both anew; read them.
"""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import pytest_asyncio
from matrix_page import PAGE, page
from matrix_requests import ANTHROPIC, BEDROCK, CHAT, COHERE, GEMINI, RESPONSES, SAID
from matrix_seen import seen
from matrix_world import CLIENTS, TARGETS, World, compact, world
from matrix_written import WRITTEN
from translated import CODECS, answered, asked, codec_of, gist, loose, recorded
from wire.recordings import Recording

from tollway.providers.eventstream import CONTENT_TYPE

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOLDEN = Path(__file__).parents[1] / "golden" / "dialects"
WRITES = bool(os.environ.get("TOLLWAY_WRITE_GOLDEN"))
SPOKEN_BY = {
    "openai-compatible": {CHAT},
    "openai": {CHAT, RESPONSES},
    "openai, reasoning": {CHAT, RESPONSES},
    "anthropic": {ANTHROPIC},
    "gemini": {GEMINI},
    "cohere": {COHERE},
    "bedrock": {BEDROCK},
}
# Where a recorded answer comes from, by its dialect.
FROM = {
    CHAT: "openai-compatible",
    RESPONSES: "openai, reasoning",
    ANTHROPIC: "anthropic",
    GEMINI: "gemini",
    COHERE: "cohere",
    BEDROCK: "bedrock",
}
ANSWERS = answered()
# Its usage adds up by choice, which only the row of its own kind of provider knows.
PER_CHOICE = "llamacpp/chat_stream_n-choices_cache-read_n_qwen3-1-7b-q4-k-m"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def through() -> AsyncIterator[World]:
    """Yield a gateway before all upstreams; in the end nothing is held."""
    async with world() as one:
        yield one
        states = one.daemon.server.daemon.gate.purse.states()
        assert all(state.held_nanousd == 0 for state in states)


def golden(name: str, found: dict[str, str]) -> dict[str, str]:
    """Return what a file says; first write it, where that is asked for."""
    path = GOLDEN / f"{name}.json"
    if WRITES:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    return dict(json.loads(path.read_text("utf-8")))


async def outcome(
    through: World, client: str, model: str, said: dict[str, Any], *, stream: bool = False
) -> str:
    """Return what became of a request, as the reply's head and the ledger's row say it."""
    try:
        reply = await through.ask(client, model, stream, **said)
        assert not stream or reply
    except Exception as refusal:  # noqa: BLE001 - of three libraries, each its own
        status = getattr(refusal, "status_code", None) or getattr(refusal, "code", None)
        assert status == 400, refusal
        return "refused"
    row = await through.row()
    dropped = through.heads.get("x-tollway-dropped", "")
    assert row.call.ending == "answered"
    named = row.call.dropped.split(",")
    # What an answer itself loses is known behind a stream's head alone.
    assert set(dropped.split(", ")) <= {"", *named} if stream else named == dropped.split(", ")
    return f"dropped: {dropped}" if dropped else ""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_each_feature_of_a_request_becomes_what_the_table_says(
    through: World, client: str, target: str
) -> None:
    """Passed through, translated, dropped by name, or refused; and never refused for nothing.

    What is translated stands in the body as the target's own documentation has it. Where
    something is dropped, a route with `on_loss = "refuse"` refuses the request and names it.
    Asked for a stream, the same becomes of it, and the target is told the same.
    """
    through.upstream.answer = None
    found: dict[str, str] = {}
    for feature, ways in SAID.items():
        said = ways[CLIENTS.index(client)]
        if said is None:
            found[feature] = "-"
            continue
        asked_before = len(through.upstream.asked)
        became = await outcome(through, client, TARGETS[target], said)
        whole = through.upstream.asked[asked_before:]
        if client not in SPOKEN_BY[target]:  # where bytes pass, `same_bytes` has the streams
            assert await outcome(through, client, TARGETS[target], said, stream=True) == became
            assert plain(through.upstream.asked[asked_before + len(whole) :]) == plain(whole)
        if became == "refused":
            assert len(through.upstream.asked) == asked_before
        else:
            spoken, body = through.upstream.asked[-1]
            if client in SPOKEN_BY[target]:
                assert spoken == client and not became
                became = "passes through"
            else:
                assert spoken != client
                if not became:
                    assert WRITTEN[spoken][feature] in compact(body), (feature, body)
                    became = "translated"
                else:
                    strict = f"strict/{list(TARGETS).index(target)}"
                    assert await outcome(through, client, strict, said) == "refused", feature
        found[feature] = became
    assert found == golden(f"{client}.to_{target.replace(', ', '_')}", found)


def plain(asked: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Return requests without what asks for a stream and its usage."""
    asks = ("stream", "stream_options")
    return [
        (spoken, {field: value for field, value in body.items() if field not in asks})
        for spoken, body in asked
    ]


def name(recording: Recording) -> str:
    """Name a test after its recording."""
    return recording.id


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("source", FROM)
async def test_each_recorded_answer_is_read_by_each_library_as_what_it_was(
    through: World, client: str, source: str
) -> None:
    """Text, calls, why it stopped, usage; as it came, streamed or whole; the row has its tokens.

    Where client and upstream speak the same dialect every byte is the provider's.
    """
    if (client, source) == (CHAT, RESPONSES):
        pytest.skip("whoever speaks Responses here speaks chat completions too")
    found: dict[str, set[str]] = {}
    for recording in ANSWERS:
        codec = codec_of(recording)
        if codec is None or codec.name != source or recording.id == PER_CHOICE:
            continue
        kind = "text/event-stream" if recording.streamed else "application/json"
        if recording.streamed and source == BEDROCK:
            kind = CONTENT_TYPE
        through.upstream.answer = (200, kind, recording.body)
        if client == source:
            await same_bytes(through, client, recording)
            continue
        probes = {"logprobs": True} if client == CHAT and asked(recording).logprobs else {}
        reply = await through.ask(client, TARGETS[FROM[source]], recording.streamed, **probes)
        _, answer = recorded(recording)
        told = gist(answer, CODECS[client])
        if client == GEMINI or not recording.streamed:
            told = loose(told)  # calls that come whole
        assert seen(client, reply) == meant(told, client), recording.id
        row = await through.row()
        if answer.usage is not None:
            assert row.call.input_total == answer.usage.input_total, recording.id
            assert row.call.output_total == answer.usage.output_total, recording.id
        lost = set(filter(None, row.call.dropped.split(",")))
        if not recording.streamed:
            head = through.heads.get("x-tollway-dropped", "")
            assert set(filter(None, head.split(", "))) == lost, recording.id
        for feature in recording.features:
            found[feature] = found.get(feature, lost) & lost  # what it always loses
    if client != source:
        said = {feature: ", ".join(sorted(lost)) for feature, lost in sorted(found.items())}
        assert said == golden(f"{client}.from_{source}", said)


async def test_what_a_whole_answer_loses_stands_in_its_head(through: World) -> None:
    """As what its request has lost does; whatever a provider calls it, it is one short name."""
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [
            {"type": "text", "text": "Hello"},
            {"type": "of, tomorrow" + "!" * 100, "said": 1},
            {"type": "another", "said": 2},
        ],
        "stop_reason": "of_tomorrow",
        "usage": {"input_tokens": 7, "output_tokens": 3},
    }
    through.upstream.answer = (200, "application/json", json.dumps(message).encode())
    turn = {"role": "user", "content": "Hi", "mood": "good"}
    reply = await through.ask(
        CHAT, TARGETS["anthropic"], messages=[turn], user="x" * 10, logit_bias={"1": 1}
    )
    assert reply.choices[0].message.content == "Hello"
    names = ["messages.mood", "logit_bias", "another", "of_ tomorrow" + "!" * 52]
    assert (await through.row()).call.dropped.split(",") == names
    assert unquote(through.heads["x-tollway-dropped"]).split(", ") == names


def meant(said: dict[str, Any], client: str) -> dict[str, Any]:
    """Return what of an answer's gist a library shows in the same place for all recordings."""
    first = said["choices"][0] if said["choices"] else None
    usage = said["usage"]
    return {
        "text": first["text"] if first else "",
        "calls": [(call, arguments) for _, call, arguments in first["calls"]] if first else [],
        "stop": first["stop"] if first else "end" if client != GEMINI else None,
        "usage": (usage["input"], usage["output"], usage["cached"]) if usage else None,
    }


async def same_bytes(through: World, client: str, recording: Recording) -> None:
    """Ask in the upstream's own dialect, without a library, and compare every byte."""
    model = TARGETS[FROM[client]]
    path = {
        CHAT: "/v1/chat/completions",
        RESPONSES: "/v1/responses",
        ANTHROPIC: "/v1/messages",
        GEMINI: f"/v1beta/models/{model}:"
        + ("streamGenerateContent?alt=sse" if recording.streamed else "generateContent"),
    }[client]
    body: dict[str, Any] = {"model": model, "max_tokens": 9, "messages": []}
    if client == RESPONSES:
        body = {"model": model, "input": "Hi"}
    if client == GEMINI:
        body = {"contents": [{"parts": [{"text": "Hi"}]}]}
    elif recording.streamed:
        body["stream"] = True
        if client == CHAT:
            body["stream_options"] = {"include_usage": True}
    reply = await through.post(path, body)
    assert reply.status_code == 200, (recording.id, reply.content)
    passed = recording.body
    if client == CHAT and recording.streamed and (end := passed.find(b"data: [DONE]")) >= 0:
        passed = passed[:end]  # behind it nothing is an answer's
        assert reply.content.startswith(passed + b"data: [DONE]"), recording.id
        return
    assert reply.content == passed, recording.id


async def test_the_page_of_dialects_is_what_the_tests_found() -> None:
    """`docs/dialects.md` is made of the golden files alone."""
    made = page(GOLDEN)
    if WRITES:
        PAGE.write_text(made, "utf-8")
    assert PAGE.read_text("utf-8") == made
