"""The words every layer shares: `Call`, `Bound`, `Usage`, `Price`.

The contract as types: this file imports nothing of ours. Tokens are whole numbers, money is
integer nano-dollars, prices are Decimal dollars for a million tokens.
"""

from decimal import Decimal
from typing import Literal

import msgspec

# "chat" is a conversation in any dialect, "count_tokens" how long one is, "compact" its short form.
# The last five sell something else than tokens (`units.py`).
Endpoint = Literal[
    "chat",
    "completions",
    "embeddings",
    "count_tokens",
    "compact",
    "rerank",
    "transcriptions",
    "speech",
    "images",
    "moderations",
]


class Usage(msgspec.Struct, frozen=True):
    """Tokens by class. The classes are disjoint: a token stands in exactly one of them.

    Providers overlap them (OpenAI counts cached tokens within input, Anthropic beside it);
    each dialect's reader takes that apart, so that nothing here is billed twice or not at all.
    """

    input: int = 0  # fresh input: not cached, not audio, not an image's
    cache_read: int = 0
    cache_write: int = 0  # the provider's default lifetime (5 minutes at Anthropic)
    cache_write_1h: int = 0
    audio_input: int = 0
    output: int = 0  # not reasoning, not audio
    reasoning: int = 0
    audio_output: int = 0
    image_input: int = 0  # images and video
    image_output: int = 0
    # No tokens: paid searches that the provider ran on its own account, or whatever an endpoint
    # sells in place of tokens (`units.py`).
    searches: int = 0
    estimated: bool = False

    @property
    def input_total(self) -> int:
        """All tokens that went in, of every class."""
        fresh = self.input + self.audio_input + self.image_input
        return fresh + self.cache_read + self.cache_write + self.cache_write_1h

    @property
    def output_total(self) -> int:
        """All tokens that came out, of every class."""
        return self.output + self.reasoning + self.audio_output + self.image_output


class Bound(msgspec.Struct, frozen=True):
    """The most that one attempt at a call can use, whatever the model says.

    `input` and `output` are tokens, `output` those of one choice. It is None where nothing
    limits it: the request has no limit of its own and the gateway must write one. `beside` is
    what each choice may think outside that limit. `by_window`
    says that the input holds parts that bytes do not bound (images, files, audio): only the
    model's context window does. `media` says that it may hold images or audio at all, whose
    tokens may cost more than text. `searches` are the paid searches that the request allows.
    `unbounded` names the fields that can raise the bill past any number of tokens.
    """

    input: int
    output: int | None
    beside: int = 0
    choices: int = 1
    prompts: int = 1  # inputs of an embedding or prompts of a completion: a window for each
    by_window: bool = False
    media: bool = True
    searches: int = 0
    service: str = "auto"  # the service tier asked for; "auto": any that the provider chooses
    unbounded: tuple[str, ...] = ()


class Call(msgspec.Struct, frozen=True):
    """What a client asks for, as far as the gate must know it; the body stays bytes."""

    endpoint: Endpoint
    dialect: str
    model: str
    body: bytes
    stream: bool = False
    wants_usage: bool = False  # the client asked for the usage chunk of a stream
    output_limit: int | None = None  # tokens per choice, as the client wrote it
    choices: int = 1  # answers asked for: `n`, for each prompt of a completion
    lone: bool = False  # of embeddings: one text by itself, which Google has a method for
    # Of Responses that the gateway keeps, for targets that keep nothing: the id of the answer
    # before, whose turns are in `body` already; and, as a JSON array, what this call adds to
    # them. b"": its answer is not kept.
    previous: str = ""
    adds: bytes = b""
    scan: object = None  # the dialect's own: what `peek` found in `body`, so that `edit` need not


class Overrides(msgspec.Struct, frozen=True):
    """What a route changes; None and "" for nothing."""

    max_temperature: float | None = None
    max_output: int | None = None
    system_prefix: str = ""
    reasoning_effort: str = ""


class Tier(msgspec.Struct, frozen=True):
    """A price that holds from `start` input tokens on, for the whole call."""

    start: int
    usd: Decimal


class Rate(msgspec.Struct, frozen=True):
    """Dollars for a million tokens of one class, with the tiers of long prompts if any."""

    usd: Decimal
    tiers: tuple[Tier, ...] = ()

    def at(self, input_tokens: int) -> Decimal:
        """Return the price for a call with so many input tokens in all."""
        reached = [tier for tier in self.tiers if input_tokens >= tier.start]
        return max(reached, key=lambda tier: tier.start).usd if reached else self.usd


class Price(msgspec.Struct, frozen=True):
    """What a model costs on a day. `id` is a digest of all that follows it.

    A class without a rate of its own costs what its parent does: cached, audio and image input
    as input, reasoning, audio and image as output. `request_usd` is for each call, where there
    is one.
    """

    id: str
    source: str  # "gateway.toml", "genai-prices 0.2.3", "free"
    input: Rate
    output: Rate
    cache_read: Rate | None = None
    cache_write: Rate | None = None
    cache_write_1h: Rate | None = None
    audio_input: Rate | None = None
    reasoning: Rate | None = None
    audio_output: Rate | None = None
    image_input: Rate | None = None
    image_output: Rate | None = None
    request_usd: Decimal = Decimal(0)
    search_usd: Decimal | None = None  # for each paid search; None: not known
    units: tuple[tuple[str, Decimal], ...] = ()  # by the keys of `units.py`: what else is sold
    longest_audio: Decimal | None = None  # minutes that the model hears at most, where known
    context_window: int | None = None  # tokens, where known
    gpu_hour_usd: Decimal | None = None  # of a model on this box that is charged by its time
    service: str = ""  # the service tier that it is the price of; "": the standard one
    services: tuple["Price", ...] = ()  # what the provider's other service tiers cost
    discount: Decimal = Decimal(1)  # the part of all these that is paid: 0.9 for 10 % off

    @property
    def free(self) -> bool:
        """Whether no use of the model can cost anything."""
        if self.input.usd or self.output.usd:  # as with most: every call asks
            return False
        rates = (
            self.input,
            self.output,
            self.cache_read,
            self.cache_write,
            self.cache_write_1h,
            self.audio_input,
            self.reasoning,
            self.audio_output,
            self.image_input,
            self.image_output,
        )
        dear = any(rate and (rate.usd or any(t.usd for t in rate.tiers)) for rate in rates)
        fees = self.request_usd or self.search_usd or self.gpu_hour_usd
        return not dear and not fees and all(other.free for other in self.services)
