"""What every wire format must offer, and the small types that pass between gate and dialect."""

from typing import Protocol

import msgspec

from tollway.providers import events, sse
from tollway.providers.canon import Bound, Call, Endpoint, Usage
from tollway.providers.conversation import Conversation
from tollway.providers.dialects.alike import Alike
from tollway.providers.errors import GatewayError, UpstreamRefused
from tollway.providers.sse import Event

# Reasons for which a chat ended that say that it broke off: DeepSeek, Z.ai, Mistral and OpenRouter,
# vLLM and SGLang. What was said until then is no answer.
BROKE_OFF = frozenset({"insufficient_system_resource", "network_error", "error", "abort"})


class Edits(msgspec.Struct, frozen=True):
    """What must change in a body on its way to a provider; nothing else does.

    `output_limit` is written in the field that the target's quirks name, replacing any there
    is; None leaves what the client wrote. `quirks` are the words of the target's catalog row.
    """

    model: str
    output_limit: int | None = None
    ask_usage: bool = False  # stream_options.include_usage = true
    quirks: frozenset[str] = frozenset()


class AnswerReader(Protocol):
    """Reads one attempt's answer over the client's shoulder: what was used, how it ended.

    It never raises: what it cannot read is passed on and counted by bytes.
    """

    usage: Usage | None  # the last report wins, class by class; None when there was none
    produced: int  # an upper bound of the visible output, in tokens: its UTF-8 bytes
    begun: bool  # a valid first event (or whole answer) has been seen
    ended: bool  # the dialect's own end was seen, so that a clean close is a whole answer
    last: bool  # the event just read, or an earlier one, is the stream's own last one
    failed: UpstreamRefused | None  # an error inside a 200 answer
    upstream_id: str  # the provider's name for the answer; or ""
    service: str  # the service tier that the answer says it was made in; or ""
    model: str  # that the answer says it was made by; or ""
    finish_reasons: list[str]  # in the dialect's words, in the order in which choices ended

    @property
    def alike(self) -> Alike | None:
        """What knows events again that say nothing but that `produced` grew; or None."""
        ...

    @property
    def raw_usage(self) -> str:
        """The provider's last report as JSON, what we do not read included; or ""."""
        ...

    def end_early(self) -> bytes:
        """Return the events that end the stream here, as if the output limit had been reached."""
        ...

    def event(self, event: Event) -> bool:
        """Read one event of a stream; return False if the client must not see it."""
        ...

    def whole(self, body: bytes) -> None:
        """Read a whole, unstreamed answer."""
        ...


class InUrl(msgspec.Struct, frozen=True):
    """What a request's URL says where it is not said in the body: Gemini's way."""

    model: str = ""
    stream: bool = False
    one_array: bool = False  # the stream is wanted as one JSON array, not as events
    lone: bool = False  # one text is to be embedded, by itself


NOTHING_IN_URL = InUrl()


class Upstream(Protocol):
    """How one wire format is spoken to a provider, and its answers are metered."""

    name: str

    def peek(self, endpoint: Endpoint, body: bytes, url: InUrl = NOTHING_IN_URL) -> Call:
        """Return what the gate must know of a request.

        Raises:
            RequestInvalid: It is not JSON, not an object, or a field the gate needs has the
                wrong type; `param` names it.
        """
        ...

    def bound(self, call: Call) -> Bound:
        """Return the most that one attempt at the call can use (governance: the input bound)."""
        ...

    def edit(self, call: Call, edits: Edits) -> bytes:
        """Return the body for a provider: the same bytes but for what `edits` names."""
        ...

    def path(self, endpoint: Endpoint, url: InUrl = NOTHING_IN_URL) -> str:
        """Return the endpoint's path and query, to be put behind a provider's base URL."""
        ...

    def reader(self, call: Call, quirks: frozenset[str]) -> AnswerReader:
        """Return a fresh reader for one attempt's answer."""
        ...

    def read_error(self, status: int, body: bytes) -> UpstreamRefused:
        """Return a provider's error answer as an exception; unreadable bodies included."""
        ...


class Dialect(Upstream, Protocol):
    """A wire format that clients of ours speak too."""

    def write_error(self, error: GatewayError, call_id: str) -> bytes:
        """Return an error body in the shape that this dialect's client libraries raise."""
        ...

    def error_event(self, error: GatewayError, call_id: str, last: bytes = b"") -> bytes:
        """Return the event that ends a broken stream so that client libraries raise.

        `last` is the piece of the stream in front of it, for a dialect that numbers its events.
        """
        ...


class Facts(msgspec.Struct, frozen=True):
    """What a codec must know of a target to write a request for it.

    `output_limit` is the limit that the gate's hold counts on and wins over the client's;
    `default_output` is for dialects that demand a limit, where neither gives one. `quirks` are
    the words of the target's catalog row. `thinks` is whether the model reasons before it
    answers, since one that does not may refuse to be asked for it; None: go by its name.
    `efforts` are the words of `reasoning_effort` that the model knows; (): it refuses the field,
    None: nobody knows. `refuses` are fields that would fail the whole call, `refuses_back` such
    of turns that were answers.
    `counts`: the request is to count the prompt's tokens alone, where there is an endpoint for it.
    """

    model: str
    output_limit: int | None = None
    default_output: int = 16_384
    quirks: frozenset[str] = frozenset()
    thinks: bool | None = None
    efforts: tuple[str, ...] | None = None
    refuses: tuple[str, ...] = ()
    refuses_back: tuple[str, ...] = ()
    counts: bool = False


class Written(msgspec.Struct, frozen=True):
    """A request in a target's dialect, and what of the client's it could not say.

    `dropped` names fields as the client's dialects do ("top_k", "cache_control", "logprobs"),
    each once, in the order met; for `x-tollway-dropped` and the ledger. Where the route says
    `on_loss = "refuse"`, a call with anything in it is refused instead of sent.
    """

    body: bytes
    dropped: tuple[str, ...] = ()


class EventReader(Protocol):
    """Reads one attempt's answer into events of the neutral form (`events.py` says the rules).

    Metering is not its work: an `AnswerReader` of the same dialect reads beside it.
    """

    @property
    def ended(self) -> bool:
        """Whether the dialect's own end was seen."""
        ...

    @property
    def dropped(self) -> set[str]:
        """What of the answer no event says, and so no other dialect."""
        ...

    def event(self, event: sse.Event) -> list[events.Event]:
        """Return what one event of a stream means; often nothing (pings, comments).

        Raises:
            UpstreamBroke: It is no event of this dialect.
        """
        ...

    def end(self) -> list[events.Event]:
        """Return what was held back, once the body has ended; nothing more may be read."""
        ...

    def whole(self, body: bytes) -> events.Answer:
        """Return a whole, unstreamed answer.

        Raises:
            UpstreamBroke: It is no answer of this dialect.
        """
        ...


class Writer(Protocol):
    """Writes one answer for the client that asked for it; errors go by `Dialect.error_event`.

    `dropped` is what of the answer the client's dialect cannot say; for the ledger. `service` is
    the service tier that the answer was made in, in its provider's word; "" while none is known.
    """

    dropped: set[str]
    service: str

    def event(self, event: events.Event) -> bytes:
        """Return the bytes of a stream that stand for an event; often none.

        How the answer stopped and what it used are kept for `end`. A `Failed` gives no bytes.
        """
        ...

    def end(self) -> bytes:
        """Return the bytes that end a stream: to be sent once the call is settled."""
        ...

    def whole(self, answer: events.Answer) -> bytes:
        """Return a whole answer's body."""
        ...


class Asks(Protocol):
    """How the neutral form is said to a provider of a dialect, and its answers are read.

    A request that cannot be said without changing the meaning of its answer (tools, a schema,
    images) is refused with `Untranslatable`; anything else that a target cannot say is dropped
    and named. It does no I/O.
    """

    @property
    def name(self) -> str:
        """The dialect's."""
        ...

    def write_request(self, said: Conversation, facts: Facts) -> Written:
        """Return the request for a target.

        Raises:
            Untranslatable: The target cannot say it; `param` names the field.
        """
        ...

    def events(self, said: Conversation, quirks: frozenset[str]) -> EventReader:
        """Return a fresh reader for one attempt's answer to what `write_request` made of `said`.

        Whatever stood in for something on the way there (a plain-text tool as one that takes
        JSON, a name that the target does not bear) is turned back on the way here.
        """
        ...


class Codec(Asks, Protocol):
    """How a dialect that clients speak is translated: from and to the neutral form."""

    @property
    def keepalive(self) -> bytes:
        """What fills a silence in a stream; b"" where client libraries bear nothing."""
        ...

    @property
    def content_type(self) -> str:
        """The media type of a stream."""
        ...

    def read_request(self, call: Call) -> Conversation:
        """Return what a client's body says.

        Raises:
            RequestInvalid: It is not what the endpoint takes; `param` names the field.
        """
        ...

    def writer(self, call: Call) -> Writer:
        """Return a fresh writer for the answer to a client's call."""
        ...
