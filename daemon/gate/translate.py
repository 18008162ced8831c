"""A call as one target is sent it, and that target's answer as the client reads it.

Where client and target speak the same dialect the call is the client's own bytes and nothing
here runs. Else it goes through the neutral form: a `Version` is the call as the target gets it,
bounded, priced and metered as if the client had spoken that dialect itself; an `Interpreter`
turns the answer back.
"""

from collections.abc import Callable, Iterator

import msgspec

from tollway.daemon.gate.route import Target
from tollway.providers.canon import Bound, Call, Endpoint, Overrides
from tollway.providers.catalog import Name
from tollway.providers.conversation import Conversation, HostedTool, without_thoughts
from tollway.providers.dialects.dialect import AnswerReader, Edits, Facts, InUrl, Upstream, Written
from tollway.providers.dialects.echoes import ECHOED, To, without_echoes
from tollway.providers.dialects.gemini_embed import asks_otherwise
from tollway.providers.dialects.gemini_request import NAME as GEMINI
from tollway.providers.dialects.openai_models import reasons
from tollway.providers.dialects.openai_units import content_type
from tollway.providers.dialects.override import NOTHING, Changed, changed, overridden
from tollway.providers.dialects.plain_refs import with_plain_refs
from tollway.providers.dialects.responses_said import no_summary
from tollway.providers.dialects.table import DIALECTS, EMBEDS, EMBEDS_FOR, UPSTREAMS
from tollway.providers.embedding import Embedding
from tollway.providers.errors import RequestInvalid, Untranslatable
from tollway.providers.events import Event as Said
from tollway.providers.events import Stopped
from tollway.providers.fold import unfold
from tollway.providers.halves import Halves, with_signs
from tollway.providers.headers import Headers
from tollway.providers.output_limits import Lower, within
from tollway.providers.repeated_calls import with_own_ids
from tollway.providers.sse import Event
from tollway.providers.units import UNITS, NotThere

# What a client's library says of itself to its own provider; another one has no use for it.
_DIALECTS_OWN = ("anthropic-", "openai-", "x-stainless-", "x-goog-", "x-codex-", "x-openai-")
# Of a provider's answer: true of its bytes, which the client does not get.
_OF_ITS_BYTES = frozenset({"content-type", "etag", "content-md5", "digest", "last-modified"})
_JSON = "application/json"
# Of what is left out, in `x-tollway-dropped` and the ledger.
_LONGEST_NAME, _MOST_NAMES = 64, 30
# What a route may change, and what is lost where a model does not take that.
_LOST_OF_ROUTE = {"max_temperature": "temperature", "reasoning_effort": "reasoning"}
# "web_search", "web_search_preview", "web_search_20250305", ...; Google's; and the search among the
# client's own tools, which a model that is shown all of them needs not.
_SEARCHES = ("web_search", "googleSearch", "enterpriseWebSearch", "tool_search")


class Version(msgspec.Struct, frozen=True):
    """A call in the dialect of one target. `said` is None where that is the client's own."""

    dialect: Upstream
    call: Call
    bound: Bound
    said: Conversation | Embedding | None = None
    default_output: int = 0
    dropped: tuple[str, ...] = ()  # of the request, what the target's dialect cannot say
    changed: tuple[str, ...] = ()  # of the request, what its route changed
    most_output: int | None = None  # tokens, more than which the target takes as no limit
    longest: int | None = None  # tokens of all the model's answers, if it answers to that limit

    def path(self, target: Target) -> str:
        """Return the path and query behind a target's base URL."""
        call = self.call
        own = target.kind.path_of("stream" if call.stream else call.endpoint, target.model)
        url = InUrl(target.model, call.stream, lone=call.lone)
        return own or self.dialect.path(call.endpoint, url)

    def body(self, target: Target, limit: int | None) -> bytes:
        """Return the bytes to send, with another output limit than the client's where one is given.

        A conversation is written anew for that: what else depends on the limit (a budget for
        thinking must be below it) then fits it.
        """
        call = self.call
        if isinstance(self.said, Conversation) and limit is not None:
            written = _written(self.said, self.dialect, target, self.default_output, limit)
            call, limit = msgspec.structs.replace(call, body=written.body), None
        edits = Edits(
            model=target.model,
            output_limit=limit,
            # A model on this box tells its usage without being asked.
            ask_usage=self.call.stream and not target.worker,
            quirks=target.kind.quirks,
        )
        return self.dialect.edit(call, edits)


class Translator:
    """One client's call, in whatever dialect a target wants it. Each is written once."""

    def __init__(
        self,
        call: Call,
        *,
        strict: bool,
        default_output: int,
        longest: Callable[[Target], int | None] = lambda _: None,
    ) -> None:
        """Take a call.

        Args:
            call: The client's.
            strict: Refuse, rather than drop, what a target cannot say (`on_loss = "refuse"`).
            default_output: The output limit for dialects that demand one, in tokens.
            longest: Returns how long a target's answers may be, None where nobody has said.
        """
        self._call = call
        self._own: Version | None = None
        self._strict = strict
        self._default_output = default_output
        self._longest = longest
        self._said: Conversation | None = None
        self._unsaid: tuple[str, ...] = ()  # to whatever target

    def version(
        self, target: Target, output: Lower | None = None, *, bare: bool = False
    ) -> Version:
        """Return the call as a target is to be sent it.

        Args:
            target: Whoever is to answer.
            output: The most that it takes as a limit, where it has just said so.
            bare: Without the thoughts of earlier turns, which it has said it cannot read.

        Raises:
            Untranslatable: Its dialect cannot say it.
            NotThere: It has no such endpoint.
            RequestInvalid: A part of the request that only a translation reads is wrong.
        """
        call = self._call
        sells = call.endpoint in UNITS
        embeds = call.endpoint == "embeddings" and target.kind.dialect in EMBEDS
        if embeds and call.dialect == GEMINI and asks_otherwise(target.kind.quirks):
            return self._embedding(target)
        passes = target.kind.speaks(call.dialect, call.endpoint)
        if passes or (sells and call.endpoint in target.kind.paths):
            if sells and target.worker:
                raise _not_there(target, call.endpoint)
            passed = self._passed(target, bare=bare)
            return self._bounded(passed, self._most(target, output), output)
        if embeds:
            return self._embedding(target)
        if sells:
            raise _not_there(target, call.endpoint)
        if refusal := out_of_reach(target, call.endpoint):
            raise refusal
        if self._said is None:
            said = DIALECTS[call.dialect].codec.read_request(call)
            if call.adds:  # the gateway does: nothing is left out
                said = msgspec.structs.replace(said, store=None)
            said = msgspec.structs.replace(said, messages=with_own_ids(said.messages))
            self._said, offers = without_offers(with_plain_refs(said))
            _check_choice(self._said)
            self._unsaid = offers + said.unread
        most = self._most(target, output)
        said, over = within(self._said, most)
        if bare:
            said, over = without_thoughts(said), (*over, "thinking")
        default = self._default_output if most is None else min(self._default_output, most)
        wanted, changes, dialect, written = self._changed(target, said, default)
        dropped = self._lost(target, self._unsaid + over + written.dropped)
        # A completion is asked as a conversation.
        endpoint: Endpoint = "chat" if call.endpoint == "completions" else call.endpoint
        there = dialect.peek(endpoint, written.body, InUrl(target.model, call.stream))
        found = Version(dialect, there, dialect.bound(there), wanted, default, dropped, changes)
        return self._bounded(found, most, output)

    def _most(self, target: Target, output: Lower | None) -> int | None:
        known = self._longest(target)
        told = known if output is None else output.tokens
        return told if known is None or told is None else min(known, told)

    @staticmethod
    def _bounded(version: Version, most: int | None, told: Lower | None) -> Version:
        """Return a version for a target that takes no more than `most` tokens as a limit."""
        if most is None:
            return version
        longest = told.tokens if told and told.lasting else None
        return msgspec.structs.replace(version, most_output=most, longest=longest)

    def _passed(self, target: Target, *, bare: bool) -> Version:
        """Return a call whose dialect a target speaks: the client's own, but for what fails there.

        Raises:
            Untranslatable: Something does, and the route allows no loss.
        """
        overrides = target.overrides
        call, changes, names = self._edited(target, overrides, bare=bare)
        if overrides is not None and overrides.reasoning_effort and "reasoning" in names:
            # Where no thoughts can be asked for, the route asks for none: that loses nothing.
            untaken = msgspec.structs.replace(overrides, reasoning_effort=NOTHING.reasoning_effort)
            call, changes, names = self._edited(target, untaken, bare=bare)
        lost = self._lost(target, names)
        own = DIALECTS[call.dialect].dialect
        if call is not self._call:
            return Version(own, call, own.bound(call), dropped=lost, changed=changes)
        if self._own is None:
            self._own = Version(own, call, own.bound(call))
        return self._own

    def _edited(
        self, target: Target, overrides: Overrides | None, *, bare: bool
    ) -> tuple[Call, tuple[str, ...], tuple[str, ...]]:
        """Return a call with a route's changes, these, and what is lost of it at a target."""
        after = Changed(self._call)
        if overrides is not None:
            after = overridden(self._call, overrides, target.model)
        call, changes = after.call, after.names
        if call.endpoint not in ECHOED:
            return call, changes, ()
        # Who only speaks as Anthropic does may sign nothing, and want its thoughts back.
        checks = target.base_url == target.kind.base_url or bool(target.kind.part_of)
        to = To(target.model, target.kind.refuses_back, checks, target.kind.quirks, bare)
        call, names = without_echoes(call, to)
        return call, changes, names

    def _changed(
        self, target: Target, said: Conversation, default: int
    ) -> tuple[Conversation, tuple[str, ...], Upstream, Written]:
        """Return a conversation with its route's changes, what these are, and how it is written.

        What the model does not take of them is left as the client wrote it, which loses nothing.
        """
        overrides = target.overrides
        if overrides is None:
            return said, (), *self._in_words_of(target, said, default)
        wanted, changes = changed(said, overrides)
        dialect, written = self._in_words_of(target, wanted, default)
        lost = {key for key, name in _LOST_OF_ROUTE.items() if name in written.dropped}
        untaken = {key: getattr(NOTHING, key) for key in lost}
        if untaken:
            wanted, changes = changed(said, msgspec.structs.replace(overrides, **untaken))
            dialect, written = self._in_words_of(target, wanted, default)
        return wanted, changes, dialect, written

    def _embedding(self, target: Target) -> Version:
        """Return a call for vectors as a target is to be sent it: its texts are the same ones.

        Raises:
            Untranslatable, RequestInvalid: As `version`.
        """
        own = EMBEDS_FOR[self._call.dialect]
        said = own.read_request(self._call)
        facts = Facts(target.model, quirks=target.kind.quirks)
        written = EMBEDS[target.kind.dialect].write_request(said, facts)
        dropped = self._lost(target, tuple(own.names.get(name, name) for name in written.dropped))
        dialect = UPSTREAMS[target.kind.dialect].dialect
        there = dialect.peek("embeddings", written.body, InUrl(target.model))
        bound = DIALECTS[self._call.dialect].dialect.bound(self._call)
        return Version(dialect, there, bound, said, dropped=dropped)

    def _lost(self, target: Target, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return what a target cannot be asked for, as it is told.

        Raises:
            Untranslatable: There is some, and the route allows none.
        """
        dropped = _few(names) if names else ()
        if dropped and self._strict:
            raise Untranslatable(
                f"`{target.name}` cannot be asked for {', '.join(dropped)}, and this route's"
                ' `on_loss` is "refuse"',
                hint='Leave it out, or set `on_loss` to "warn" on the route',
                param=dropped[0],
            )
        return dropped

    def _in_words_of(
        self, target: Target, said: Conversation, default: int
    ) -> tuple[Upstream, Written]:
        """Return the dialect that a target is asked in, and the request.

        OpenAI's reasoning models refuse tools in chat completions, and show no thoughts there.
        """
        spoken = UPSTREAMS[target.kind.dialect].dialect
        better = UPSTREAMS[asked_in(target)].dialect
        if better is not spoken:
            try:
                return better, _written(said, better, target, default, None)
            except Untranslatable:
                pass  # what it cannot say, the other one may
        return spoken, _written(said, spoken, target, default, None)


def out_of_reach(target: Target, endpoint: Endpoint) -> Untranslatable | None:
    """Return why no call of another dialect's reaches an endpoint of a target; None where some do.

    The tokens of a chat are counted here, or by who speaks so.
    """
    embeds = endpoint == "embeddings" and target.kind.dialect in EMBEDS
    if embeds or endpoint in ("chat", "completions"):
        return None
    if endpoint == "compact":
        return no_summary(f"`{target.name}` makes no summary of a conversation as OpenAI does")
    return Untranslatable(
        f"`{target.name}` has no endpoint for {endpoint} in this API's form",
        hint="Call a model whose provider speaks it",
    )


def _not_there(target: Target, endpoint: Endpoint) -> NotThere:
    return NotThere(
        f"`{target.name}` has no `/v1{UNITS[endpoint].path}`",
        hint="Call a model whose provider serves it",
        param="model",
    )


def asked_in(target: Target) -> Name:
    """Return the dialect that a call is translated to for a target, if that can say it."""
    kind = target.kind
    return kind.reasons_in if kind.reasons_in and reasons(target.model) else kind.dialect


def _few(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names as a header and the ledger bear them: a client may send any, and many."""
    short = tuple(name[:_LONGEST_NAME].replace(",", "_") for name in names)
    rest = len(short) - _MOST_NAMES
    return short if rest <= 0 else (*short[:_MOST_NAMES], f"and {rest} more")


def without_offers(said: Conversation) -> tuple[Conversation, tuple[str, ...]]:
    """Return a conversation without the offer to search, and what was left out.

    Agents make it with every call, and only their own provider could take it up: what is asked
    for is not changed by it. A search that must be made or is all that is offered, and any other
    tool of the provider's, is for the codec to refuse: who only searches, as Claude Code does in
    a call of its own, would take what a model remembers for what was found.
    """
    choice = said.tool_choice
    if choice is not None and (choice.hosted or choice.mode in ("any", "tool")):
        return said, ()
    offers = [
        tool
        for tool in said.tools
        if isinstance(tool, HostedTool) and tool.type.startswith(_SEARCHES)
    ]
    if len(offers) in (0, len(said.tools)):
        return said, ()
    kept = tuple(tool for tool in said.tools if tool not in offers)
    names = tuple(dict.fromkeys(f"tools.{tool.type}" for tool in offers))
    return msgspec.structs.replace(said, tools=kept), names


def _check_choice(said: Conversation) -> None:
    """See that what must be called is there: no codec writes a choice of no tools.

    Raises:
        RequestInvalid: It is not, to which providers answer so too.
    """
    choice = said.tool_choice
    if choice is None or choice.mode not in ("any", "tool"):
        return
    names = choice.names
    if not any(isinstance(t, HostedTool) or not names or t.name in names for t in said.tools):
        what = ", ".join(f"`{name}`" for name in names) or "a tool"
        raise RequestInvalid(
            f"`tool_choice` demands {what}, which the request does not offer",
            hint="Send the tool in `tools`, or leave `tool_choice` out",
            param="tool_choice",
        )


def _written(
    said: Conversation,
    dialect: Upstream,
    target: Target,
    default_output: int,
    limit: int | None,
) -> Written:
    facts = Facts(
        model=target.model,
        output_limit=limit,
        default_output=default_output,
        quirks=target.kind.quirks,
        efforts=target.kind.efforts_of(target.model),
        refuses=target.kind.refused_by(target.model),
        refuses_back=target.kind.refuses_back,
    )
    return UPSTREAMS[dialect.name].codec.write_request(said, facts)


class Embedded:
    """Turns a target's vectors into an answer for the client; they come whole."""

    dropped: tuple[str, ...] = ()

    def __init__(self, client: Call, said: Embedding, version: Version) -> None:
        self._client, self._said = client, said
        self._read = EMBEDS[version.dialect.name].read

    def whole(self, body: bytes) -> bytes:
        """Return a whole answer as the client reads it.

        Raises:
            UpstreamBroke: It holds no vectors.
        """
        made = self._read(self._said, body)
        return EMBEDS_FOR[self._client.dialect].written(self._client, self._said, made)

    def headers(self, headers: Headers) -> Headers:
        """Return an answer's headers."""
        kept = [pair for pair in headers if pair[0] not in _OF_ITS_BYTES]
        return (("content-type", _JSON), *kept)


class Interpreter:
    """Turns one attempt's answer from the target's dialect into the client's."""

    def __init__(
        self, client: Call, version: Version, quirks: frozenset[str], metered: AnswerReader
    ) -> None:
        """Take a call and the attempt at it; `metered` reads whatever is to be turned before."""
        assert isinstance(version.said, Conversation)  # noqa: S101 - else there is nothing to turn
        own = DIALECTS[client.dialect].codec
        self._stream = client.stream
        self._content_type = own.content_type if client.stream else _JSON
        self._reader = UPSTREAMS[version.dialect.name].codec.events(version.said, quirks)
        self._writer = own.writer(client)
        self._metered = metered
        self._halves: Halves | None = None  # once there are any

    @property
    def dropped(self) -> tuple[str, ...]:
        """What of the answer so far the client's dialect cannot say."""
        return _few(tuple(sorted(self._reader.dropped | self._writer.dropped)))

    def event(self, event: Event) -> bytes:
        """Return what the client is to see of one event of a stream; often nothing.

        Raises:
            UpstreamBroke: It is no event of the target's dialect.
        """
        if event.data is not None and (signed := with_signs(event.data)) != event.data:
            event = Event(event.raw, signed, event.name)
            self._halves = self._halves or Halves()
        return self._written(self._reader.event(event))

    def _written(self, said: list[Said]) -> bytes:
        self._writer.service = self._metered.service
        write, halves = self._writer.event, self._halves
        if halves is None:
            return b"".join([write(one) for one in said])
        return halves.mended(b"".join([write(each) for one in said for each in halves.event(one)]))

    def end(self, *, early: bool = False) -> bytes:
        """Return what ends the client's stream; to be sent once the call is settled.

        With `early` it ends as if the output limit had been reached.
        """
        rest = self._written([*self._reader.end(), *([Stopped("length")] if early else [])])
        halves = self._halves
        if halves is None:
            return rest + self._writer.end()
        rest += b"".join(map(self._writer.event, halves.end()))
        return halves.mended(rest + self._writer.end())

    def whole(self, body: bytes) -> bytes:
        """Return a whole answer as the client reads it: as a stream, where it asked for one.

        Raises:
            UpstreamBroke: It is no answer of the target's dialect.
        """
        answer = self._reader.whole(body)
        self._writer.service = self._metered.service
        if not self._stream:
            return self._writer.whole(answer)
        return b"".join(map(self._writer.event, unfold(answer))) + self._writer.end()

    def headers(self, headers: Headers) -> Headers:
        """Return an answer's headers, the content type being the client's dialect's."""
        kept = [pair for pair in headers if pair[0] not in _OF_ITS_BYTES]
        return (("content-type", self._content_type), *kept)


def request_headers(headers: Headers, version: Version, target: Target) -> Headers:
    """Return the headers of a request: the client's that concern the target, and the target's.

    What the target's kind always says, a client of the same dialect may say otherwise.
    """
    if version.said is not None:
        return (*_foreign(headers), *target.headers)
    if version.call.endpoint in UNITS:
        kept = (pair for pair in target.headers if pair[0] != "content-type")
        return (*headers, *kept, ("content-type", content_type(version.call)))
    if not target.kind.headers:
        return headers + target.headers
    said = {name for name, _ in headers}
    return headers + tuple(pair for pair in target.headers if pair[0] not in said)


def _foreign(headers: Headers) -> Iterator[tuple[str, str]]:
    for name, value in headers:
        if not name.startswith(_DIALECTS_OWN) and name not in ("accept", "user-agent"):
            yield name, value
