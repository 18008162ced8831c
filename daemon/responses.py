"""`/v1/responses/ID`: answers that the gateway keeps for providers that keep none."""

from typing import Any

import msgspec
from aiohttp import web

from tollway.daemon.gate.conversations import not_kept
from tollway.daemon.ledger.responses import Response, input_of
from tollway.daemon.listing import caller_of
from tollway.daemon.state import DAEMON
from tollway.providers.errors import RequestInvalid

_MOST, _USUAL = 100, 20


async def get(request: web.Request) -> web.Response:
    """Answer with a kept response, as its client got it.

    Raises:
        ResponseNotFound: None of that id is kept for this caller.
        RequestInvalid: It is wanted as a stream.
    """
    if request.query.get("stream", "false") == "true":
        raise RequestInvalid(
            "A kept answer is given whole: its stream is over",
            hint="Leave `stream` out",
            param="stream",
        )
    found = await _found(request)
    return web.Response(body=found.body, content_type="application/json")


async def input_items(request: web.Request) -> web.Response:
    """Answer with the items that a kept response was made of, a page of them.

    Raises:
        ResponseNotFound: None of that id is kept for this caller.
        RequestInvalid: `limit`, `order` or `after` is none.
    """
    found = await _found(request)
    _, caller = caller_of(request)
    kept = request.app[DAEMON].conversations
    before = await kept.before(caller, found.previous) if found.previous else []
    items: list[dict[str, Any]] = [
        msgspec.json.decode(raw) for raw in (*(before or ()), *input_of(found))
    ]
    page, more = _page(request, items)
    return web.json_response(
        {
            "object": "list",
            "data": page,
            "first_id": page[0].get("id") if page else None,
            "last_id": page[-1].get("id") if page else None,
            "has_more": more,
        }
    )


async def delete(request: web.Request) -> web.Response:
    """Delete a kept response; what was said before it stays.

    Raises:
        ResponseNotFound: None of that id is kept for this caller.
    """
    found = await _found(request)
    await request.app[DAEMON].conversations.forget(found.id)
    return web.json_response({"id": found.id, "object": "response", "deleted": True})


async def cancel(request: web.Request) -> web.Response:
    """Refuse: what is kept here is whole, and nothing is made in the background.

    Raises:
        ResponseNotFound: None of that id is kept for this caller.
        RequestInvalid: It is.
    """
    found = await _found(request)
    raise RequestInvalid(
        f"`{found.id}` is whole: only what is made in the background can be cancelled",
        hint="To end an answer that is being streamed, close its connection",
    )


async def _found(request: web.Request) -> Response:
    _, caller = caller_of(request)
    response_id = request.match_info["id"]
    found = await request.app[DAEMON].conversations.find(caller, response_id)
    if found is None:
        raise not_kept(response_id)
    return found


def _page(request: web.Request, items: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """Return the page that is asked for, newest first unless `order` is asc, and if more follow."""
    asked = request.query
    order, after = asked.get("order", "desc"), asked.get("after")
    try:
        limit = int(asked.get("limit", _USUAL))
    except ValueError:
        limit = 0
    if not 1 <= limit <= _MOST:
        raise RequestInvalid(f"`limit` must be a number from 1 to {_MOST}", param="limit")
    if order not in ("asc", "desc"):
        raise RequestInvalid("`order` must be `asc` or `desc`", param="order")
    if order == "desc":
        items = items[::-1]
    if after:
        names = [item.get("id") for item in items]
        if after not in names:
            raise RequestInvalid(f"There is no item `{after[:80]}` in it", param="after")
        items = items[names.index(after) + 1 :]
    return items[:limit], len(items) > limit
