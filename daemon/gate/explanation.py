"""What is asked of `tollway routes explain`, and what it answers."""

import msgspec

from tollway.daemon.config.schema import HoldBy
from tollway.daemon.gate.books import BudgetState
from tollway.daemon.gate.conditions import Checked
from tollway.daemon.gate.limit import LimitState
from tollway.providers.canon import Endpoint
from tollway.providers.catalog import ClientName


class Question(msgspec.Struct, frozen=True):
    """A call to explain. `key` is a key's name; None asks as the owner."""

    model: str
    key: str | None = None
    tokens: int = 1000  # of input
    output: int | None = None  # the output limit the client would set
    endpoint: Endpoint = "chat"
    dialect: ClientName = "openai_chat"  # what the client speaks
    body: msgspec.Raw = msgspec.Raw()  # a request, whose tokens and fields then count
    stream: bool = False
    headers: dict[str, str] = {}
    tags: tuple[str, ...] = ()  # "name=value"


class TargetAnswer(msgspec.Struct, frozen=True):
    """One target: whether it would be tried, and what would be held for it."""

    target: str
    kind: str
    allowed: bool
    why: str = ""  # why it would not be tried, or refused
    url: str = ""
    price: str = ""  # where its price comes from; "" for none
    input_usd: str = ""  # for a million tokens
    output_usd: str = ""
    hold_nanousd: int | None = None  # None too where there is no price: nothing is held
    output_limit: int | None = None  # that the gateway would write into the request
    dialect: str = ""  # in which it would be asked
    passes: bool = True  # the client's own bytes would reach it: nothing is translated
    dropped: tuple[str, ...] = ()  # of the request, what that dialect cannot say
    callers: bool = False  # it is asked with the caller's own credential
    hold: HoldBy = "strict"  # "expected" once enough calls have told what to expect
    skips: bool = False  # it is full, and the next target would be tried
    slots: int | None = None  # calls that it takes at once, None for any number
    running: int | None = None  # of them now, None where it has no slots
    waiting: int | None = None  # for one of them, None where it has none
    chosen: bool = True  # such a call goes there at all; False: only others by the same name do
    route: str = ""  # the route that leads there: the one asked for, or one behind it
    case: str = ""  # "when[0]" where a case of that route does
    strategy: str = ""  # by which its place in the order was found
    weight: int = 1
    health: str = "ok"  # or "resting", all its keys being at rest, or "failing"
    window: int | None = None  # tokens that the model takes, where known
    expected_nanousd: int | None = None  # what such a call is likely to cost; no bound
    first_ms: int | None = None  # to the first token of a stream, of late
    tokens_s: float | None = None  # a second behind it
    load: float = 0.0  # of what it can take at once; 1 is full
    changed: tuple[str, ...] = ()  # of the request, by the route
    # Further tries that its provider is allowed now, of all calls; None where the call has none.
    retries_left: int | None = None


class CaseAnswer(msgspec.Struct, frozen=True):
    """A case of a route's `when`: whether it takes the call, and what its conditions saw."""

    route: str
    case: str
    takes: bool
    conditions: tuple[Checked, ...]


class Explanation(msgspec.Struct, frozen=True):
    """Where a call would go, as whom, and which budgets and rate limits it must fit into."""

    model: str
    how: str
    route: str
    key: str
    user: str
    team: str
    project: str
    levels: tuple[str, ...]  # the levels with lists that must all allow it
    targets: tuple[TargetAnswer, ...]
    budgets: tuple[BudgetState, ...]
    limits: tuple[LimitState, ...] = ()
    also: tuple[str, ...] = ()  # other providers that serve the bare name
    cases: tuple[CaseAnswer, ...] = ()  # of `when`, up to the first that takes the call
    input_tokens: int = 0  # as conditions see them
    retries: int = 0  # of each target, as far as its provider's allowance goes
    stays: str = ""  # the target that has the conversation, which is why it comes first
    refused: str = ""  # the words the caller would get, "" where the call would be sent
