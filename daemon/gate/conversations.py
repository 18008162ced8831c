"""Conversations of the Responses API over providers that keep none: kept here, and put together.

With `ledger.bodies = "all"` an answer that was translated is kept, unless `store` is false. A call
that names it, by `previous_response_id` or by an item's id, gets all that was said before in front
of its own input, and so does the bound, the hold and every target. What a provider of the same API
keeps is its own: such ids pass through.
"""

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tollway.daemon.errors import NotFound
from tollway.daemon.gate.authenticate import Caller
from tollway.daemon.ledger import responses
from tollway.daemon.ledger.responses import Response
from tollway.providers.canon import Call
from tollway.providers.dialects.dialect import Dialect
from tollway.providers.dialects.json_edit import Field, edit, fields
from tollway.providers.dialects.wire import Decodes
from tollway.providers.errors import RequestInvalid

if TYPE_CHECKING:
    from tollway.daemon.gate.gate import Gate
    from tollway.daemon.gate.send import Exchange
    from tollway.daemon.ledger.writer import Ledger

log = logging.getLogger(__name__)

_T = TypeVar("_T")
NAME = "openai_responses"
# Answers that are not yet certain to be on disk; more than wait there at any time.
_MOST_FRESH = 1000
_MOST_FRESH_BYTES = 64 * 1024 * 1024
_MOST_BYTES = 16 * 1024 * 1024  # of one answer
_MOST_TURNS = 1000
_REFERS = (b'"previous_response_id"', b'"item_reference"')
_INPUT = msgspec.json.Decoder(str | list[msgspec.Raw])
_ID = msgspec.json.Decoder(str | None)
_STORE = msgspec.json.Decoder(bool | None)
_UNREADABLE = (msgspec.DecodeError, ValueError)


class _Item(msgspec.Struct):
    type: str = "message"
    id: str | None = None


class _Said(msgspec.Struct):
    id: str
    output: list[_Item] = []


_ITEM = msgspec.json.Decoder(_Item)
_SAID = msgspec.json.Decoder(_Said)


class Conversations:
    """Finds kept answers: the newest in memory, all others in the ledger."""

    def __init__(self, ledger: "Ledger") -> None:
        self._ledger = ledger
        self._fresh: OrderedDict[str, Response] = OrderedDict()
        self._fresh_bytes = 0
        self._items: dict[str, str] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()

    def add(self, one: Response) -> None:
        """Take an answer that is on its way to the ledger."""
        self._fresh[one.id] = one
        self._fresh_bytes += len(one.input) + len(one.body)
        self._items.update(dict.fromkeys(one.items, one.id))
        while len(self._fresh) > _MOST_FRESH or self._fresh_bytes > _MOST_FRESH_BYTES:
            self._drop(next(iter(self._fresh)))

    def _drop(self, response_id: str) -> None:
        if one := self._fresh.pop(response_id, None):
            self._fresh_bytes -= len(one.input) + len(one.body)
            for item in one.items:
                self._items.pop(item, None)

    async def find(self, caller: Caller, response_id: str) -> Response | None:
        """Return an answer of the caller's own, or None.

        Raises:
            LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
        """
        if response_id in self._gone:
            return None
        found = self._fresh.get(response_id)
        if found is None:
            found = await asyncio.to_thread(responses.find, self._ledger.path, response_id)
        who = caller.who
        return found if found and (found.key, found.user) == (who.key, who.user) else None

    async def item(self, caller: Caller, item_id: str) -> msgspec.Raw | None:
        """Return an item of one of the caller's own answers, or None."""
        of = self._items.get(item_id) or await asyncio.to_thread(
            responses.holding, self._ledger.path, item_id
        )
        found = await self.find(caller, of) if of else None
        if found is None:
            return None
        for raw in (*responses.output_of(found), *responses.input_of(found)):
            if _ITEM.decode(raw).id == item_id:
                return raw
        return None

    async def before(self, caller: Caller, response_id: str) -> list[msgspec.Raw] | None:
        """Return all items up to an answer, its own included; None where it is not kept.

        Raises:
            RequestInvalid: One before it is not kept any more.
        """
        turns: list[Response] = []
        wanted = response_id
        while wanted:
            found = await self.find(caller, wanted)
            if found is None:
                if not turns:
                    return None
                raise RequestInvalid(
                    f"The answer `{wanted[:80]}`, which `{response_id[:80]}` builds on, is not"
                    " kept any more",
                    hint="Send the whole conversation in `input`",
                    param="previous_response_id",
                )
            turns.append(found)
            if len(turns) > _MOST_TURNS:
                raise RequestInvalid(
                    f"The conversation has more than {_MOST_TURNS} turns",
                    hint="Begin a new one",
                    param="previous_response_id",
                )
            wanted = found.previous
        items: list[msgspec.Raw] = []
        for one in reversed(turns):
            items += [*responses.input_of(one), *responses.output_of(one)]
        return items

    async def forget(self, response_id: str) -> None:
        """Delete an answer, in memory and on disk."""
        self._drop(response_id)
        self._gone[response_id] = None
        if len(self._gone) > _MOST_FRESH:
            self._gone.popitem(last=False)
        await self._ledger.forget(response_id)


async def resumed(gate: "Gate", caller: Caller, call: Call, dialect: Dialect) -> Call:
    """Return a call with what it refers to put in the place of the reference.

    What is not kept here stays as it is: the target may know it.

    Raises:
        RequestInvalid: A part of the conversation is not kept any more.
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    if call.dialect != NAME or call.endpoint != "chat":
        return call
    refers = any(word in call.body for word in _REFERS)
    keeps = gate.config.ledger.bodies == "all"
    if not (refers or keeps):
        return call
    known = fields(call.body)
    try:
        own = _INPUT.decode(known["input"].raw) if "input" in known else []
        previous = _of(known, _ID, "previous_response_id")
        keeps = keeps and _of(known, _STORE, "store") is not False
    except _UNREADABLE:
        return call  # of other types: that is for the dialect to refuse
    kept = gate.daemon.conversations
    before = await kept.before(caller, previous) if previous else None
    items = [_message(own)] if isinstance(own, str) else await _looked_up(kept, caller, own)
    if before is not None or (refers and items != own):
        values = {"input": msgspec.json.encode([*map(_unnamed, before or ()), *items])}
        if before is not None:
            values["previous_response_id"] = b"null"
        call = dialect.peek(call.endpoint, edit(call.body, known, values))
    adds = msgspec.json.encode([_named(raw) for raw in items]) if keeps else b""
    return msgspec.structs.replace(
        call, previous=(previous or "") if before is not None else "", adds=adds
    )


def _of(known: Mapping[str, Field], decoder: Decodes[_T], name: str) -> _T | None:
    return decoder.decode(known[name].raw) if name in known else None


async def _looked_up(
    kept: Conversations, caller: Caller, own: list[msgspec.Raw]
) -> list[msgspec.Raw]:
    items = []
    for raw in own:
        item = raw
        if b'"item_reference"' in bytes(raw):
            try:
                said = _ITEM.decode(raw)
            except _UNREADABLE:
                said = _Item()
            if said.type == "item_reference" and said.id:
                found = await kept.item(caller, said.id)
                item = raw if found is None else _unnamed(found)
        items.append(item)
    return items


def _message(text: str) -> msgspec.Raw:
    content = [{"type": "input_text", "text": text}]
    return msgspec.Raw(msgspec.json.encode({"type": "message", "role": "user", "content": content}))


def _unnamed(raw: msgspec.Raw) -> msgspec.Raw:
    """Return an item without the id that it has here alone; thoughts are proved by theirs."""
    said: dict[str, Any] = msgspec.json.decode(raw)
    if said.get("type") == "reasoning" or "id" not in said:
        return raw
    del said["id"]
    return msgspec.Raw(msgspec.json.encode(said))


def remember(exchange: "Exchange", said: bytes) -> Response | None:
    """Keep an answer that its client is about to have, for the calls that will build on it.

    Args:
        exchange: The call.
        said: The whole answer, or what a stream ends with.

    Returns:
        What is to be written; None where the provider keeps it, or there is nothing to go on from.
    """
    call, target = exchange.call, exchange.target
    if target is None or target.kind.speaks(call.dialect):
        return None
    if call.stream:
        said = _last_response(said)
    try:
        answer = _SAID.decode(said)
    except _UNREADABLE:
        return None
    if len(said) > _MOST_BYTES:
        log.info("call %s: its answer of %d bytes is not kept", exchange.call_id, len(said))
        return None
    own = msgspec.json.decode(call.adds, type=list[_Item])
    one = Response(
        id=answer.id,
        key=exchange.caller.who.key,
        user=exchange.caller.who.user,
        at_ms=exchange.at_ms,
        previous=call.previous,
        input=call.adds,
        body=said,
        items=tuple(item.id for item in (*own, *answer.output) if item.id),
    )
    exchange.daemon.conversations.add(one)
    return one


class _Final(msgspec.Struct):
    response: msgspec.Raw = msgspec.Raw()


def _last_response(said: bytes) -> bytes:
    """Return the response within a stream's last event."""
    begin = said.rfind(b"\ndata: ")
    try:
        return bytes(msgspec.json.decode(said[begin + 7 :], type=_Final).response)
    except _UNREADABLE:
        return b""


def _named(raw: msgspec.Raw) -> dict[str, Any]:
    """Return an input item as it is listed: with a type and an id."""
    said: dict[str, Any] = {"type": "message", **msgspec.json.decode(raw)}
    if said["type"] == "message" and isinstance(said.get("content"), str):
        said["content"] = [{"type": "input_text", "text": said["content"]}]
    if said["type"] != "item_reference":
        said.setdefault("id", f"{_PREFIXES.get(said['type'], 'item')}_{secrets.token_hex(16)}")
    return said


_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}


class ResponseNotFound(NotFound):
    """There is no such answer of the caller's here."""


def not_kept(response_id: str) -> ResponseNotFound:
    """Return the error for an answer that is not the caller's, or not here."""
    return ResponseNotFound(
        f"No response `{response_id[:80]}` of this key is kept here",
        hint='The gateway keeps what it translated, with `ledger.bodies = "all"`; what a provider'
        " of the same API answered, that provider keeps",
    )
