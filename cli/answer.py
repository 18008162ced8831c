"""One chat answer from the daemon: its words as they come, and what there is to say of it."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from decimal import Decimal

import msgspec

from tollway.cli.control import Beside, Control
from tollway.providers.errors import GatewayError

PATH = "/v1/chat/completions"
_COST = "tollway cost_usd="


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: str
    content: str


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream is to hold beside the words."""

    include_usage: bool = True


class Ask(msgspec.Struct, frozen=True):
    """What is asked for: the request's body."""

    model: str
    messages: Sequence[Message]
    # The newer name: the gateway writes the older one for providers that know no other.
    max_completion_tokens: int | msgspec.UnsetType = msgspec.UNSET
    temperature: float | msgspec.UnsetType = msgspec.UNSET
    stream: bool = True
    stream_options: StreamOptions = StreamOptions()


class Said(msgspec.Struct):
    """An answer, as far as it came. Times are milliseconds, money is nano-dollars.

    None stands for what nobody told: the tokens of an answer that was cut, its cost.
    """

    model: str
    target: str = ""
    call: str = ""
    text: str = ""
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_nanousd: int | None = None
    first_ms: int | None = None
    total_ms: int = 0
    tokens_per_s: float | None = None


class _Delta(msgspec.Struct):
    content: object = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    message: _Delta | None = None  # of an answer in one piece: not every server streams
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: dict[str, object] | None = None


def hear(
    control: Control, ask: Ask, said: Said, write: Callable[[str], None], *, tags: str = ""
) -> None:
    """Ask, and hand each piece of the answer to `write` as it comes; `said` fills meanwhile.

    `tags` are the call's, "name=value", joined by commas.
    A caller that is interrupted in `write`, or between two pieces, has hung up: the daemon ends
    the call, and `said` has what came.

    Raises:
        GatewayError: The call was refused, or failed, also in the middle of the answer.
    """
    beside = Beside()
    clock = _Clock(said)
    headers = {"x-tollway-report": "cost"} | ({"x-tollway-tags": tags} if tags else {})
    whole = False
    try:
        with closing(control.stream(PATH, ask, headers=headers, beside=beside)) as events:
            for data in events:
                if data.strip() == b"[DONE]":
                    whole = True
                else:
                    _take(_read(data), said, clock, write)
        if not beside.streamed:  # it is one object: its provider streams nothing
            whole = True
            if usd := beside.headers.get("x-tollway-cost-usd"):
                said.cost_nanousd = int(Decimal(usd) * 10**9)
    finally:
        clock.stop()
        said.target = beside.headers.get("x-tollway-target", "")
        said.call = beside.headers.get("x-tollway-request-id", "")
        for comment in beside.comments:
            if comment.startswith(_COST):
                # Behind the cost it may say how long the call had waited.
                cost, _, _ = comment.removeprefix(_COST).partition(" ")
                said.cost_nanousd = int(Decimal(cost) * 10**9)
    if not whole:
        raise GatewayError("The answer broke off", hint="`tollway logs` shows how the call ended")


class _Clock:
    """Keeps the times of one answer."""

    def __init__(self, said: Said) -> None:
        self._said = said
        self._began = time.monotonic()
        self._first: float | None = None
        self._last = self._began

    def piece(self) -> None:
        """Note that the model said something just now."""
        self._last = time.monotonic()
        if self._first is None:
            self._first = self._last
            self._said.first_ms = round(1000 * (self._first - self._began))

    def stop(self) -> None:
        """Note the end, and work out the speed."""
        said = self._said
        said.total_ms = round(1000 * (time.monotonic() - self._began))
        if said.output_tokens and self._first is not None:
            # The first token's time is the prompt's. What came in one piece has the whole time.
            spread = self._last > self._first and said.output_tokens > 1
            tokens = said.output_tokens - spread
            seconds = self._last - (self._first if spread else self._began)
            said.tokens_per_s = round(tokens / max(seconds, 1e-6), 1)


def _read(data: bytes) -> _Chunk:
    try:
        return msgspec.json.decode(data, type=_Chunk)
    except msgspec.MsgspecError as fault:
        raise GatewayError(
            f"The answer has a piece that cannot be read: {fault}",
            hint="`tollway logs` shows the call",
        ) from fault


def _take(chunk: _Chunk, said: Said, clock: _Clock, write: Callable[[str], None]) -> None:
    if chunk.error is not None:
        message, hint, code = (chunk.error.get(name) for name in ("message", "hint", "code"))
        error = GatewayError(str(message or "The answer broke off"), hint=str(hint or ""))
        error.code = str(code or error.code)
        raise error
    if chunk.usage:
        said.input_tokens = chunk.usage.prompt_tokens
        said.output_tokens = chunk.usage.completion_tokens
    for choice in chunk.choices[:1]:
        said.finish_reason = choice.finish_reason or said.finish_reason
        delta = choice.message or choice.delta
        text = _text(delta.content) + (delta.refusal or "")
        if text or delta.reasoning_content or delta.reasoning:  # thinking is not shown
            clock.piece()
        if text:
            said.text += text
            write(text)


def _text(content: object) -> str:
    """Return the words of a delta: a text, or (Mistral's thinking models) a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
