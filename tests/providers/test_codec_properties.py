"""What holds for every conversation and every answer that two dialects can say."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from translated import (
    ANTHROPIC,
    CODECS,
    OPENAI,
    asked,
    client_call,
    codec_of,
    events,
    fold_of,
    no_request,
    spoken,
    streamed,
)
from wire.recordings import Recording

from tollway.providers.canon import Call, Usage
from tollway.providers.conversation import (
    Conversation,
    Format,
    Image,
    Message,
    Part,
    Sampling,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from tollway.providers.dialects.dialect import Codec, Facts
from tollway.providers.errors import GatewayError
from tollway.providers.events import Answer, Choice, Stopped, StopReason
from tollway.providers.fold import unfold
from tollway.providers.sse import Event

both = pytest.mark.parametrize("codec", CODECS.values(), ids=list(CODECS))
ALL = Facts("claude-sonnet-4-5", quirks=frozenset({"all_of_openai", "top_k", "cache_control"}))

WORDS = st.text(min_size=1, max_size=12)
NAMES = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
JSON = st.dictionaries(WORDS, st.integers(0, 9) | WORDS, max_size=2).map(msgspec.json.encode)
TEXTS = st.builds(Text, WORDS)
IMAGES = st.builds(
    Image,
    st.just(Source("base64", "aGk=", "image/png")) | st.just(Source("url", "https://x.example/a")),
)
CALLS = st.builds(ToolCall, NAMES, NAMES, JSON.map(bytes.decode))


def joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return parts with at most one text, which stands first, as both dialects have them."""
    texts = [part for part in parts if isinstance(part, Text)][:1]
    return (*texts, *(part for part in parts if not isinstance(part, Text)))


USERS = st.lists(TEXTS | IMAGES, min_size=1, max_size=3).map(
    lambda parts: Message("user", tuple(parts))
)
ASSISTANTS = st.lists(TEXTS | CALLS, min_size=1, max_size=3).map(
    lambda parts: Message("assistant", joined(parts))
)
RESULTS = st.lists(st.builds(ToolResult, NAMES, st.tuples(TEXTS)), min_size=1, max_size=2).map(
    lambda parts: Message("tool", tuple(parts))
)


SAMPLING = st.builds(
    Sampling, temperature=st.none() | st.floats(0, 0.99), top_k=st.none() | st.integers(1, 9)
)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Draw a conversation that either dialect can say: turns that alternate, one system prompt."""
    turns: list[Message] = []
    if draw(st.booleans()):
        turns.append(Message("system", (draw(TEXTS),)))
    for _ in range(draw(st.integers(1, 3))):
        turns += [draw(USERS), draw(ASSISTANTS), draw(RESULTS)]
    names = draw(st.lists(NAMES, unique=True, max_size=3))
    schema = b'{"type":"object","properties":{"a":{"type":"string"}}}'
    tools = tuple(Tool(name, draw(st.text(max_size=9)), schema) for name in names)
    modes = [ToolChoice("auto"), ToolChoice("any"), ToolChoice("none")]
    modes += [ToolChoice("tool", (name,)) for name in names]
    choice = draw(st.none() | st.sampled_from(modes))
    return Conversation(
        by="",
        model="asked",
        messages=tuple(turns),
        tools=tools,
        tool_choice=choice if tools else None,
        parallel=draw(st.none() | st.booleans()) if choice and choice.mode != "none" else None,
        format=draw(st.none() | st.just(Format("json_schema", schema))),
        stop=tuple(draw(st.lists(NAMES, max_size=2))),
        sampling=Sampling(
            temperature=draw(st.none() | st.floats(0, 0.99)),
            top_k=draw(st.none() | st.integers(1, 9)),
        ),
        output_limit=draw(st.integers(1, 9999)),
        stream=draw(st.booleans()),
    )


def there(said: Conversation, codec: Codec) -> Conversation:
    """Return a conversation written in a dialect and read again."""
    written = codec.write_request(msgspec.structs.replace(said, by=""), ALL)
    assert not written.dropped
    return codec.read_request(Call("chat", codec.name, "asked", written.body))


def bare(said: Conversation) -> dict[str, Any]:
    """Return what a conversation says, without what differs by the dialect alone."""
    found = msgspec.structs.asdict(said)
    shape = said.format and (said.format.kind, said.format.schema)
    parallel = None if not said.tools else said.parallel
    return found | {"by": "", "wants_usage": False, "format": shape, "parallel": parallel}


@both
@settings(max_examples=50, deadline=None)
@given(said=conversations())
def test_what_a_dialect_writes_it_reads(codec: Codec, said: Conversation) -> None:
    """Nothing is lost that both can say, and nothing is named as dropped that is not."""
    assert bare(there(said, codec)) == bare(said)


@settings(max_examples=50, deadline=None)
@given(said=conversations())
def test_a_conversation_survives_the_way_there_and_back(said: Conversation) -> None:
    """One dialect's client, another's provider, the first again."""
    over = there(there(said, OPENAI), ANTHROPIC)
    assert bare(there(over, OPENAI)) == bare(said)


LOSSES: dict[str, dict[str, Any]] = {
    "seed": {"sampling": Sampling(seed=1)},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "metadata": {"metadata": b'{"a":"b"}'},
    "prompt_cache_key": {"cache_key": "k"},
    "service_tier": {"service_tier": "flex"},
    "store": {"store": True},
    "verbosity": {"extras": (("verbosity", b'"low"'),)},
    "thinking": {"messages": (Message("assistant", (Thinking("Hm."), Text("So."))),)},
}


@settings(max_examples=50, deadline=None)
@given(names=st.sets(st.sampled_from(sorted(LOSSES))), said=conversations())
def test_what_is_lost_is_named_and_nothing_else(names: set[str], said: Conversation) -> None:
    """Each field that Anthropic does not have is dropped by its name; the rest stays."""
    more = {field: value for name in names for field, value in LOSSES[name].items()}
    messages = said.messages + more.pop("messages", ())
    if "sampling" in more:
        more["sampling"] = msgspec.structs.replace(said.sampling, seed=1)
    lossy = msgspec.structs.replace(said, messages=messages, **more)
    written = ANTHROPIC.write_request(lossy, ALL)
    assert set(written.dropped) == names
    kept = ANTHROPIC.read_request(Call("chat", ANTHROPIC.name, "asked", written.body))
    if "thinking" not in names:
        assert bare(kept) == bare(said)


SIGNED = st.builds(Thinking, WORDS, WORDS, by=st.just("anthropic_messages"))
ENCRYPTED = st.builds(Thinking, encrypted=WORDS, by=st.just("anthropic_messages"))
STOPS: st.SearchStrategy[StopReason] = st.sampled_from(("end", "length", "tools"))
USAGES = st.builds(
    Usage,
    input=st.integers(0, 99),
    cache_read=st.integers(0, 99),
    cache_write=st.integers(0, 99),
    output=st.integers(0, 99),
    reasoning=st.integers(0, 99),
)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """Draw an answer that either dialect can say: thoughts, then a text, then calls."""
    thoughts = draw(st.lists(SIGNED, max_size=1)) + draw(st.lists(ENCRYPTED, max_size=1))
    texts = draw(st.lists(TEXTS, max_size=1))
    calls = draw(st.lists(CALLS, max_size=3, unique_by=lambda call: call.id))
    stop: StopReason = "tools" if calls else draw(st.sampled_from(("end", "length")))
    parts: tuple[Part, ...] = (*thoughts, *texts, *calls)
    return Answer((Choice(parts, stop),), draw(USAGES), draw(NAMES), draw(NAMES))


def plain(answer: Answer) -> Answer:
    """Return an answer without the moment that only one dialect says."""
    return msgspec.structs.replace(answer, created=None)


@both
@settings(max_examples=50, deadline=None)
@given(answer=answers())
def test_an_answer_that_a_dialect_writes_it_reads(codec: Codec, answer: Answer) -> None:
    """As a stream and whole, alike: parts, signatures, arguments, why it stopped, usage."""
    whole = codec.writer(client_call(codec)).whole(answer)
    assert plain(codec.events(no_request(codec), frozenset()).whole(whole)) == answer
    stream = streamed(codec, list(unfold(answer)))
    assert plain(fold_of(events(codec, no_request(codec), frozenset(), stream))) == answer


@settings(max_examples=50, deadline=None)
@given(answer=answers())
def test_an_answer_survives_a_dialect_between(answer: Answer) -> None:
    """Provider, one client's dialect, a second gateway, the other: as good as direct."""
    first = streamed(OPENAI, list(unfold(answer)))
    second = streamed(ANTHROPIC, events(OPENAI, no_request(OPENAI), frozenset(), first))
    again = fold_of(events(ANTHROPIC, no_request(ANTHROPIC), frozenset(), second))
    assert plain(again) == answer


KEYS = """
    type id choices delta content tool_calls function arguments name index usage error message
    content_block text thinking signature partial_json stop_reason input finish_reason logprobs
    reasoning_details annotations audio citation
""".split()  # noqa: SIM905
TYPES = """
    message_start content_block_start content_block_delta content_block_stop message_delta
    message_stop error ping
""".split()  # noqa: SIM905
SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
STREAMS = st.lists(st.tuples(st.sampled_from(TYPES), SHAPES), max_size=4)


@both
@settings(max_examples=50, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.sampled_from(TYPES), SHAPES), max_size=4),
    noise=st.binary(max_size=30),
)
def test_a_reader_raises_nothing_but_its_own_errors(
    codec: Codec, shapes: list[tuple[str, Any]], noise: bytes
) -> None:
    """Whatever a provider sends is an answer, or breaks the call with words for a person."""
    reader = codec.events(no_request(codec), frozenset())
    bodies = [
        msgspec.json.encode({"type": kind, **shape} if isinstance(shape, dict) else shape)
        for kind, shape in shapes
    ]
    for body in (*bodies, noise):
        try:
            reader.event(Event(b"data: " + body + b"\n\n", body))
        except GatewayError as error:
            assert error.message
        try:
            codec.events(no_request(codec), frozenset()).whole(body)
        except GatewayError as error:
            assert error.message
    fold_of(reader.end())


RECORDED = [one for one in spoken() if len(one.body) < 30_000 and one.status == 200]


@settings(max_examples=50, deadline=None)
@given(
    recording=st.sampled_from(RECORDED),
    places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_a_spoilt_answer_raises_nothing_but_our_own_errors(
    recording: Recording, places: list[tuple[float, int]]
) -> None:
    """Bytes of recorded answers changed: half characters, broken JSON, fields of other types."""
    codec = codec_of(recording)
    assert codec is not None
    body = bytearray(recording.body)
    for place, byte in places:
        body[int(place * len(body))] = byte
    said = asked(recording)
    try:
        if recording.streamed:
            fold_of(events(codec, said, recording.quirks, bytes(body)))
        else:
            codec.events(said, recording.quirks).whole(bytes(body))
    except GatewayError as error:
        assert error.message


@both
@settings(max_examples=50, deadline=None)
@given(shape=SHAPES)
def test_a_request_reader_raises_nothing_but_its_own_errors(codec: Codec, shape: Any) -> None:
    """Whatever a client sends is read, or refused with the field's name."""
    body = msgspec.json.encode(
        {"model": "m", "messages": [{"role": "user", "content": shape}], "tools": shape}
    )
    for text in (body, msgspec.json.encode(shape)):
        try:
            said = codec.read_request(Call("chat", codec.name, "m", text))
            for target in CODECS.values():
                target.write_request(said, ALL)
        except GatewayError as error:
            assert error.message


def test_a_stopped_choice_is_written_once() -> None:
    """However often a provider says why it stopped, the client hears it once."""
    writer = OPENAI.writer(client_call(OPENAI))
    out = b"".join(map(writer.event, [Stopped("length"), Stopped("length")])) + writer.end()
    assert out.count(b'"finish_reason":"length"') == 1
