"""What holds for every conversation and every answer that dialects can say."""

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from translated import (
    ANTHROPIC,
    CODECS,
    GEMINI,
    OPENAI,
    RESPONSES,
    client_call,
    events,
    fold_of,
    gist,
    no_request,
    streamed,
)

from tollway.providers.cache_marks import marked
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
from tollway.providers.dialects.dialect import Codec, Facts, InUrl
from tollway.providers.dialects.table import DIALECTS
from tollway.providers.errors import GatewayError
from tollway.providers.events import Answer, Choice, Stopped, StopReason
from tollway.providers.fold import unfold

both = pytest.mark.parametrize("codec", CODECS.values(), ids=list(CODECS))
pairs = pytest.mark.parametrize(
    ("codec", "other"),
    list(itertools.permutations(CODECS.values(), 2)),
    ids=[f"{one}-{two}" for one, two in itertools.permutations(CODECS, 2)],
)
ALL = Facts("claude-sonnet-4-5", quirks=frozenset({"all_of_openai", "top_k", "cache_control"}))

WORDS = st.text(min_size=1, max_size=12)
NAMES = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
JSON = st.dictionaries(WORDS, st.integers(0, 9) | WORDS, max_size=2).map(msgspec.json.encode)
# White space alone is no text to Anthropic, which refuses it.
TEXTS = st.builds(Text, WORDS.filter(lambda text: not text.isspace()))
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
# A text that is a JSON object is one to Gemini, which may write it otherwise.
SAID = TEXTS.filter(lambda text: not text.text.startswith("{"))
RESULTS = st.lists(st.builds(ToolResult, NAMES, st.tuples(SAID)), min_size=1, max_size=2).map(
    lambda parts: Message("tool", tuple(parts))
)


SAMPLING = st.builds(
    Sampling, temperature=st.none() | st.floats(0, 0.99), top_k=st.none() | st.integers(1, 9)
)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Draw a conversation that dialects can say: turns that alternate, one system prompt."""
    turns: list[Message] = []
    if draw(st.booleans()):
        turns.append(Message("system", (draw(TEXTS),)))
    for _ in range(draw(st.integers(1, 3))):
        turns += [draw(USERS), draw(ASSISTANTS), draw(RESULTS)]
    names = draw(st.lists(NAMES, unique=True, max_size=3))
    schema = b'{"type":"object","properties":{"a":{"type":"string"}},"additionalProperties":false}'
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
        output_limit=draw(st.integers(16, 9999)),
        stream=draw(st.booleans()),
    )


def sayable(said: Conversation, codec: Codec) -> Conversation:
    """Return a conversation without what a dialect has no words for."""
    if codec is RESPONSES:
        sampling = msgspec.structs.replace(said.sampling, top_k=None)
        return msgspec.structs.replace(said, stop=(), sampling=sampling)
    if codec is GEMINI:
        return msgspec.structs.replace(
            said, parallel=None, messages=tuple(map(_of_bytes, said.messages))
        )
    return said


def _of_bytes(message: Message) -> Message:
    parts = tuple(
        Text("a picture") if isinstance(part, Image) and part.source.kind == "url" else part
        for part in message.parts
    )
    return msgspec.structs.replace(message, parts=parts)


def there(said: Conversation, codec: Codec) -> Conversation:
    """Return a conversation written in a dialect and read again."""
    written = codec.write_request(msgspec.structs.replace(said, by=""), ALL)
    assert not written.dropped
    return read(written.body, codec, stream=said.stream)


def read(body: bytes, codec: Codec, *, stream: bool = False) -> Conversation:
    """Return what a request says; Gemini's says in its URL which model, and whether to stream."""
    return codec.read_request(Call("chat", codec.name, "asked", body, stream=stream))


def bare(said: Conversation) -> dict[str, Any]:
    """Return what a conversation says, without what differs by the dialect alone."""
    found = msgspec.structs.asdict(said)
    shape = said.format and (said.format.kind, said.format.schema)
    parallel = None if not said.tools else said.parallel
    tools = [msgspec.structs.replace(tool, strict=None) for tool in said.tools]
    return found | {
        "by": "",
        "wants_usage": False,
        "format": shape,
        "parallel": parallel,
        "tools": tools,
        "store": said.store or None,
        "messages": tuple(map(_nameless, said.messages)),
    }


def _nameless(message: Message) -> Message:
    """Return a turn in which results do not say of which tool they are, nor images how to look."""
    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, ToolResult):
            part = msgspec.structs.replace(part, name="")  # noqa: PLW2901
        elif isinstance(part, Image):
            part = msgspec.structs.replace(part, detail="")  # noqa: PLW2901
        parts.append(part)
    return msgspec.structs.replace(message, parts=tuple(parts))


@both
@settings(max_examples=50, deadline=None)
@given(said=conversations())
def test_what_a_dialect_writes_it_reads(codec: Codec, said: Conversation) -> None:
    """Nothing is lost that it can say, and nothing is named as dropped that is not."""
    said = sayable(said, codec)
    assert bare(there(said, codec)) == bare(said)


@pairs
@settings(max_examples=20, deadline=None)
@given(said=conversations())
def test_a_conversation_survives_the_way_there_and_back(
    codec: Codec, other: Codec, said: Conversation
) -> None:
    """One dialect's client, another's provider, the first again."""
    said = sayable(sayable(said, codec), other)
    over = there(there(said, codec), other)
    assert bare(there(over, codec)) == bare(said)


LOSSES: dict[str, dict[str, Any]] = {
    "seed": {"sampling": Sampling(seed=1)},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "metadata": {"metadata": b'{"a":"b"}'},
    "prompt_cache_key": {"cache_key": "k"},
    "service_tier": {"service_tier": "flex"},
    "store": {"store": True},
    "verbosity": {"extras": (("verbosity", b'"low"'),)},
    "thinking": {
        "messages": (
            Message("assistant", (Thinking("Hm."), Text("So."))),
            Message("user", (Text("On"),)),
        )
    },
    "stop": {"stop": ("END",)},
    "top_k": {"sampling": Sampling(top_k=5)},
    "parallel_tool_calls": {"tools": (Tool("ls"),), "parallel": False},
}
LOST = {
    ANTHROPIC.name: {
        *("seed", "logprobs", "metadata", "prompt_cache_key", "service_tier", "store"),
        *("verbosity", "thinking"),
    },
    OPENAI.name: {"metadata", "verbosity", "thinking"},
    RESPONSES.name: {"seed", "metadata", "store", "verbosity", "thinking", "stop", "top_k"},
    GEMINI.name: {
        *("metadata", "prompt_cache_key", "store", "verbosity", "thinking"),
        "parallel_tool_calls",
    },
}


@both
@settings(max_examples=50, deadline=None)
@given(names=st.sets(st.sampled_from(sorted(LOSSES))), said=conversations())
def test_what_is_lost_is_named_and_nothing_else(
    codec: Codec, names: set[str], said: Conversation
) -> None:
    """Each field that a dialect does not have is dropped by its name; the rest stays."""
    said = sayable(said, codec)
    lossy = said
    for name in sorted(names):
        more = dict(LOSSES[name])
        if "sampling" in more:
            asked = msgspec.structs.asdict(more["sampling"])
            given_ = {field: value for field, value in asked.items() if value not in (None, b"")}
            more["sampling"] = msgspec.structs.replace(lossy.sampling, **given_)
        more["messages"] = lossy.messages + more.get("messages", ())
        lossy = msgspec.structs.replace(lossy, **more)
    written = codec.write_request(lossy, ALL)
    lost = names & LOST[codec.name]
    if "store" in names and codec is OPENAI:
        lost -= {"metadata"}  # which it keeps with what it stores
    if codec is ANTHROPIC and not marked(lossy).cache_key:
        lost -= {"prompt_cache_key"}  # which marks say
    assert set(written.dropped) == lost
    kept = read(written.body, codec, stream=said.stream)
    if names <= lost and not names & {"thinking", "parallel_tool_calls"}:
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


@both
@settings(max_examples=50, deadline=None)
@given(answer=answers())
def test_an_answer_that_a_dialect_writes_it_reads(codec: Codec, answer: Answer) -> None:
    """As a stream and whole, alike: parts, signatures, arguments, why it stopped, usage."""
    whole = codec.writer(client_call(codec)).whole(answer)
    meant = gist(answer, codec)
    assert gist(codec.events(no_request(codec), frozenset()).whole(whole), codec) == meant
    stream = streamed(codec, list(unfold(answer)))
    assert gist(fold_of(events(codec, no_request(codec), frozenset(), stream)), codec) == meant


@pytest.mark.parametrize("codec", [ANTHROPIC, OPENAI], ids=["anthropic_messages", "openai_chat"])
@settings(max_examples=50, deadline=None)
@given(answer=answers())
def test_the_two_oldest_dialects_give_an_answer_back_as_it_was(
    codec: Codec, answer: Answer
) -> None:
    """Each part by itself, in order, with its own proof; an id if it is of Anthropic's form."""
    answer = msgspec.structs.replace(answer, id=f"msg_{answer.id}")
    stream = streamed(codec, list(unfold(answer)))
    again = fold_of(events(codec, no_request(codec), frozenset(), stream))
    assert msgspec.structs.replace(again, created=None) == answer


def core(answer: Answer) -> dict[str, Any]:
    """Return what of an answer every dialect can say."""
    found = gist(answer, GEMINI)
    (choice,) = found["choices"]
    return {**choice, "usage": found["usage"], "model": found["model"]}


@pairs
@settings(max_examples=20, deadline=None)
@given(answer=answers())
def test_an_answer_survives_a_dialect_between(codec: Codec, other: Codec, answer: Answer) -> None:
    """Provider, one client's dialect, a second gateway, the other: as good as direct."""
    first = streamed(codec, list(unfold(answer)))
    second = streamed(other, events(codec, no_request(codec), frozenset(), first))
    again = fold_of(events(other, no_request(other), frozenset(), second))
    assert core(again) == core(answer)


FIELDS = """
    role content parts type text image_url input_audio file tool_calls function name arguments
    functionCall functionResponse inlineData response args id call_id output input tools
    functionDeclarations parameters source data media_type tool_use_id summary encrypted_content
    thinking signature citations annotations cache_control tool_choice mode names
""".split()  # noqa: SIM905
ASKED = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.sampled_from(
        (
            "user",
            "model",
            "text",
            "tool",
            "tool_use",
            "tool_result",
            "message",
            "reasoning",
            "input_image",
            "function",
        )
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=12,
)


@both
@settings(max_examples=50, deadline=None)
@given(shape=ASKED, more=ASKED)
def test_a_request_reader_raises_nothing_but_its_own_errors(
    codec: Codec, shape: Any, more: Any
) -> None:
    """Whatever a client sends is peeked at, bounded, read and written, or refused with words."""
    turns = {"messages": "content", "input": "content", "contents": "parts"}
    bodies = [
        {"model": "m", field: [{"role": "user", inner: shape}], "tools": more}
        for field, inner in turns.items()
    ]
    bodies += [{"model": "m", field: shape, "tool_choice": more} for field in turns]
    texts = {"system": shape, "instructions": shape, "systemInstruction": shape}
    settings_ = {"generationConfig": more, "reasoning": more, "text": more, "thinking": more}
    bodies.append({"model": "m", **texts, **settings_})
    dialect = DIALECTS[codec.name].dialect
    for text in (*map(msgspec.json.encode, bodies), msgspec.json.encode(shape)):
        try:
            call = dialect.peek("chat", text, InUrl("m"))
            assert dialect.bound(call).input >= 0
            said = codec.read_request(call)
            for target in CODECS.values():
                target.write_request(said, ALL)
        except GatewayError as error:
            assert error.message


def test_a_stopped_choice_is_written_once() -> None:
    """However often a provider says why it stopped, the client hears it once."""
    writer = OPENAI.writer(client_call(OPENAI))
    out = b"".join(map(writer.event, [Stopped("length"), Stopped("length")])) + writer.end()
    assert out.count(b'"finish_reason":"length"') == 1
