"""What the gate tells the ledger: the start and the end of calls and attempts.

Times are unix milliseconds (UTC), money nano-dollars. Names are columns of the same name.
They cannot be part of a cycle, so the collector need not look at the thousands in a queue.
"""

from typing import Literal

import msgspec

from tollway.providers.canon import Price, Usage

Ending = Literal[
    "answered", "no_usage", "client_left", "upstream_refused", "upstream_unreachable",
    "upstream_timeout", "upstream_broke", "garbage", "drained", "failed", "recovered",
    "at_cap",
]  # fmt: skip


class Who(msgspec.Struct, frozen=True, gc=False):
    """Whom a call is billed to; "" where there is none."""

    key: str = ""
    user: str = ""
    team: str = ""
    project: str = ""


class CallOpened(msgspec.Struct, frozen=True, gc=False):
    """A call that is about to be admitted."""

    id: str  # UUIDv7
    admitted_ms: int
    who: Who
    dialect: str
    endpoint: str
    requested: str  # the model name the client wrote
    route: str  # "" where the name was no route
    stream: bool
    client: str = ""  # its User-Agent, cut to 200 characters
    tags: str = ""  # JSON, "" where there are none
    budget_tags: tuple[str, ...] = ()  # "name=value": those of the tags that the file declares
    session: str = ""  # what the caller's tool calls its session
    queue_ms: int | None = None  # how long it waited for its turn, None where there is no queue


class AttemptOpened(msgspec.Struct, frozen=True, gc=False):
    """One upstream try, about to be sent. `number` counts from 1 within the call."""

    call_id: str
    number: int
    provider: str
    model: str
    started_ms: int
    hold_nanousd: int
    price: Price | None  # None: unpriced, allowed only where no budget applies
    provider_key: str = ""  # where the key is kept that it is sent with, of a provider with several


class AttemptEnded(msgspec.Struct, frozen=True, gc=False):
    """How one try ended. `cost_nanousd` is the true cost, over the hold or not."""

    call_id: str
    number: int
    ended_ms: int
    ending: Ending
    usage: Usage
    cost_nanousd: int
    overrun_nanousd: int = 0
    status: int | None = None  # the upstream's HTTP status
    first_ms: int | None = None  # from its start to the first event
    error: str = ""  # an error code, never a text that could hold a prompt
    upstream_id: str = ""  # the provider's request id
    raw_usage: str = ""  # the provider's own usage object as JSON, so that rows can be re-priced
    price: Price | None = None  # that of the service tier which answered, if not the one held for
    reported_nanousd: int | None = None  # what the provider says it cost, and was booked
    gpu_ms: int | None = None  # of a local model's GPU
    saved_nanousd: int = 0  # by a discount: the list price less the cost


class CallEnded(msgspec.Struct, frozen=True, gc=False):
    """How a call ended. Its tokens and its cost are the sums of its attempts'."""

    id: str
    ended_ms: int
    ending: Ending
    first_ms: int | None = None
    error: str = ""
    dropped: str = ""  # what its translation left out, "" where nothing


class CallRefused(msgspec.Struct, frozen=True, gc=False):
    """A call of a known caller that was never sent: no attempt, no hold, no cost."""

    id: str
    refused_ms: int
    who: Who
    dialect: str
    endpoint: str
    requested: str
    route: str
    stream: bool
    error: str  # the error's code
    client: str = ""
    tags: str = ""
    budget_tags: tuple[str, ...] = ()
    session: str = ""
    repeated: int = 0  # how many more, just like it, it stands for


class Audited(msgspec.Struct, frozen=True, gc=False):
    """A change of configuration, key or budget. `before` and `after` never hold a secret."""

    at_ms: int
    who: str
    what: str
    subject: str
    before: str = ""
    after: str = ""


class LocalTime(msgspec.Struct, frozen=True, gc=False):
    """How long a model of this box was at work, and in memory without work; milliseconds.

    `idle_nanousd` is what the idle time would have cost by the model's price.
    """

    at_ms: int
    model: str
    busy_ms: int
    idle_ms: int
    idle_nanousd: int = 0


class SpentQuery(msgspec.Struct, frozen=True, gc=False):
    """What a scope has spent since a moment: `scope` is a column of Who, or what stands here."""

    scope: Literal["box", "key", "user", "team", "project", "provider", "route", "tag"]
    name: str  # of a tag "name=value"
    since_ms: int  # always at the start of a quarter of an hour
