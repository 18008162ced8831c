"""What `tollway import` asks of a running daemon: to write what it read in the logs of agents."""

import msgspec
from aiohttp import web

from tollway.daemon.ledger.imports import Imported
from tollway.daemon.state import DAEMON
from tollway.providers.errors import RequestInvalid


class Rows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Calls that did not pass the gateway."""

    rows: list[Imported]


async def take(request: web.Request) -> web.Response:
    """Answer POST /control/imports: how many of the rows were new, once they are committed."""
    try:
        asked = msgspec.json.decode(await request.read(), type=Rows)
    except msgspec.MsgspecError as fault:
        raise RequestInvalid(f"The rows are not understood: {fault}") from fault
    written = await request.app[DAEMON].ledger.take(asked.rows)
    return web.Response(body=msgspec.json.encode(written), content_type="application/json")
