"""The hold: what one attempt can cost at the very most, and the budgets it must fit into."""

import msgspec

from tollway.daemon.errors import Unpriced
from tollway.daemon.gate.route import Target
from tollway.providers.canon import Bound, Price
from tollway.providers.errors import Unbounded
from tollway.providers.money import time_cost, time_for, worst_case
from tollway.providers.price_service import STANDARD, is_known, unnamed

_LEAST_MS = 1000  # of a model that is charged by its time: less is no answer
LEAST_OUTPUT = 16  # tokens: an answer that is cut shorter is none


class Worst(msgspec.Struct, frozen=True):
    """The most that an attempt can cost, and the output limit that must be written for that."""

    nanousd: int
    input_tokens: int
    output_tokens: int  # of all choices together
    choices: int = 1
    write_output: int | None = None  # tokens per choice, where that is not the client's own limit
    bound: Bound = Bound(0, 0)  # what the request itself bounds
    deadline_ms: int | None = None  # how long it may be at work
    clamped: str = ""  # the budget that the limit was lowered for: "5/day of user ann"

    def cost(self, output_tokens: int, price: Price) -> int:
        """Return the most in nano-dollars that it can cost with so many tokens of output."""
        if price.gpu_hour_usd is not None:
            return time_cost(self.deadline_ms or 0, price) or 0  # whatever comes out meanwhile
        return self._in(price, self.bound.service, output_tokens)

    def _in(self, price: Price, service: str, output_tokens: int) -> int:
        bound = self.bound
        return worst_case(
            self.input_tokens,
            output_tokens,
            price,
            media=bound.media,
            searches=bound.searches,
            service=service,
        )

    def unanswered(self, price: Price) -> Price:
        """Return the price of the service tier that counts as long as no answer names one."""
        options = unnamed(price, self.bound.service)
        if len(options) == 1:
            return price
        return max(options, key=lambda one: self._in(one, STANDARD, self.output_tokens))


class Terms(msgspec.Struct, frozen=True):
    """What decides an attempt's worst case, beside the request itself."""

    budgets: bool  # whether a budget applies that holds back: one that only warns does not
    default_output: int
    allow_unbounded: bool = False
    context: int | None = None  # tokens, of a model on this box
    share: int | None = None  # thousandths of the input's bound to hold; None: all of it
    deadline_ms: int | None = None  # how long a model on this box may be at work on it
    writes: bool = False  # whether a token limit needs an output limit written, budgets or not


def worst(bound: Bound, price: Price | None, target: Target, terms: Terms) -> Worst:
    """Return an upper bound of one attempt's cost.

    Where a budget applies, what cannot be bounded is refused. Where none does, the figure is
    an estimate that only a recovered call is settled at.

    Raises:
        Unpriced: The model has no price, and a budget applies.
        Unbounded: The request has a part that no number of tokens bounds, and a budget applies.
    """
    if price is None:
        if terms.budgets:
            raise Unpriced(
                f"`{target.name}` has no price, and a budget applies",
                hint=f'Add [prices."{target.name}"] with `input` and `output` in dollars for a'
                f' million tokens to gateway.toml, or "{target.name}" = "free" below [prices];'
                " `tollway prices set` writes it"
                if not target.local
                else f"Add `price` to [models.{target.model}] in gateway.toml: dollars for a"
                " million tokens as { input = 0.1, output = 0.4 }, for an hour of its time as"
                ' { gpu_hour = 0.80 }, or "free"; `tollway prices set` writes it',
            )
        unlimited = bound.output is None
        each = terms.default_output if bound.output is None else bound.output
        write = each if unlimited and terms.writes else None
        total = (each + bound.beside) * bound.choices
        return Worst(0, bound.input, total, bound.choices, write, bound, terms.deadline_ms)
    window = terms.context or _own_window(price)
    timed = price.gpu_hour_usd is not None
    if terms.budgets and not price.free and not terms.allow_unbounded and not timed:
        _refuse_unbounded(bound, target, window)
        _refuse_without_price(bound, target, price)
    tokens = bound.input
    if window:
        most = window * bound.prompts
        tokens = most if bound.by_window else min(tokens, most)
    if terms.share is not None and not bound.by_window:
        tokens = min(tokens, -(-bound.input * terms.share // 1000))
    written = None
    output = bound.output
    if output is None:
        output = terms.default_output
        if terms.context:
            output = min(output, terms.context)
        if terms.writes or (terms.budgets and not price.free and not timed):
            written = output
    total = (output + bound.beside) * bound.choices
    most_used = Worst(0, tokens, total, bound.choices, written, bound, terms.deadline_ms)
    return msgspec.structs.replace(most_used, nanousd=most_used.cost(total, price))


def _own_window(price: Price) -> int | None:
    """Return the context window where gateway.toml states it.

    The bundled ones are a help, no proof: some are smaller than what the provider takes today.
    """
    return price.context_window if price.source == "gateway.toml" else None


def _refuse_unbounded(bound: Bound, target: Target, window: int | None) -> None:
    if target.kind.is_unbounded(target.model):
        raise Unbounded(
            f"`{target.name}` searches, reads or takes its pick of sellers on its own account, so"
            " its cost cannot be bounded, and a hard budget applies",
            hint="Call another model, or set `allow_unbounded = true` on a route to it",
            param="model",
        )
    if bound.unbounded == ("file",):
        raise Unbounded(
            "How long the recording is cannot be told from the file, and a hard budget applies",
            hint="Send it as WAV, or say how many minutes the model hears at most:"
            f' `longest_audio = 25` in [prices."{target.name}"]',
            param="file",
        )
    # A worker of ours knows such a field as a limit more, or refuses the call.
    if bound.unbounded and not target.worker:
        fields = ", ".join(f"`{field}`" for field in bound.unbounded)
        raise Unbounded(
            f"The cost of {fields} cannot be bounded, and a hard budget applies",
            hint="Leave it out, or set `allow_unbounded = true` on the route",
            param=bound.unbounded[0],
        )
    if bound.by_window and not window:
        raise Unbounded(
            f"The request holds an image, file or audio, and gateway.toml does not state the"
            f" context window of `{target.name}`, so its cost cannot be bounded",
            hint=f'Add [prices."{target.name}"] with `input`, `output` and `context_window`',
        )


def _refuse_without_price(bound: Bound, target: Target, price: Price) -> None:
    """Refuse what tokens do not pay for and no price says the cost of."""
    tier = bound.service[:40]
    if not is_known(price, bound.service):
        raise Unbounded(
            f"`{target.name}` has no price for the service tier `{tier}`, and a hard budget"
            " applies",
            hint=f'Leave `service_tier` out, or say in [prices."{target.name}"] what it costs:'
            f" `service_tiers = {{ {tier} = 2.0 }}` for twice the price",
            param="service_tier",
        )
    if bound.searches and price.search_usd is None:
        raise Unbounded(
            f"`{target.name}` has no price for a search, and a hard budget applies",
            hint=f'Leave the search out, or say `search` in [prices."{target.name}"]: dollars each',
            param="tools",
        )


def clamped(most: Worst, room: int, price: Price, *, by: str) -> Worst | None:
    """Return an attempt with its output limit, or its time, cut so that it costs at most `room`.

    Args:
        most: What it can cost as it is.
        room: Nano-dollars.
        price: What `most` was computed with.
        by: The budget that asks for it, as a header tells it.

    Returns:
        None where fewer than 16 tokens would be left for each choice, or less than a second.
    """
    if price.gpu_hour_usd:
        most_ms = time_for(room, price)
        if most_ms < _LEAST_MS:
            return None
        less = msgspec.structs.replace(most, deadline_ms=most_ms, clamped=by)
        return msgspec.structs.replace(less, nanousd=less.cost(0, price))
    beside = most.bound.beside

    def cost(each: int) -> int:
        return most.cost((each + beside) * most.choices, price)

    low, high = LEAST_OUTPUT, most.output_tokens // most.choices - beside
    if high < low or cost(low) > room:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if cost(middle) <= room:
            low = middle
        else:
            high = middle - 1
    return msgspec.structs.replace(
        most,
        nanousd=cost(low),
        output_tokens=(low + beside) * most.choices,
        write_output=low,
        clamped=by,
    )
