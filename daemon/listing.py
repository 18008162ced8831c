"""`GET /v1/models`: exactly what the caller may ask for by name, as its library lists them."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from tollway.daemon.errors import ModelNotFound
from tollway.daemon.gate.authenticate import Caller
from tollway.daemon.gate.gate import Gate
from tollway.daemon.gate.route import LOCAL
from tollway.daemon.spoken import dialect_of
from tollway.daemon.state import DAEMON, OWNER

_AT_A_TIME = 50  # names; each takes some 30 us


async def models(request: web.Request) -> web.Response:
    """Return the list: routes, models on this box, and the targets that routes name."""
    gate, caller = caller_of(request)
    spoken = _spoken(request)
    data = await entries(gate, caller, _ENTRIES.get(spoken, _entry))
    page: dict[str, object] = {"object": "list", "data": data}
    if spoken == "gemini":
        page = {"models": data}
    elif spoken == "anthropic_messages":
        # All on one page: `limit` is at least 1, and nobody has a thousand routes.
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        page = {"data": data, "has_more": False, "first_id": first, "last_id": last}
    return web.json_response(body=msgspec.json.encode(page))


async def entries(gate: Gate, caller: Caller, entry: "Entry") -> list[dict[str, object]]:
    """Return what is listed for a caller; some names at a time, and others' calls in between."""
    found = []
    for number, name in enumerate(gate.router.names, start=1):
        if gate.may_list(caller, name):
            found.append(entry(gate, name))
        if number % _AT_A_TIME == 0:
            await asyncio.sleep(0)
    return found


async def model(request: web.Request) -> web.Response:
    """Return one model by its name, slashes and all.

    Raises:
        ModelNotFound: There is none of that name for this caller.
    """
    gate, caller = caller_of(request)
    name = request.match_info["model"]
    gate.plan(caller, name)
    entry = _ENTRIES.get(_spoken(request), _entry)
    return web.json_response(entry(gate, name))


def _spoken(request: web.Request) -> str:
    # Google's library asks at /v1 too, where only its key's header tells it from OpenAI's.
    return dialect_of(request.path, request.headers).name


def _gemini_entry(gate: Gate, name: str) -> dict[str, object]:
    entry = _entry(gate, name)
    found = gate.router.find(name)
    # A model's name alone tells which it is; clients look for those that they can call.
    embeds = found is not None and "embed" in found.targets[0].lower()
    said: dict[str, object] = {
        "name": f"models/{name}",
        "displayName": name,
        "supportedGenerationMethods": ["embedContent"]
        if embeds
        else ["generateContent", "countTokens"],
    }
    if "context_window" in entry:
        said["inputTokenLimit"] = entry["context_window"]
    return said


def _anthropic_entry(gate: Gate, name: str) -> dict[str, object]:
    entry = _entry(gate, name)
    made = datetime.fromtimestamp(_made_s(gate, name), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    said = {"type": "model", "id": entry["id"], "display_name": name, "created_at": made}
    if "context_window" in entry:
        said["max_input_tokens"] = entry["context_window"]
    return said


Entry = Callable[[Gate, str], dict[str, object]]
_ENTRIES: dict[str, Entry] = {"gemini": _gemini_entry, "anthropic_messages": _anthropic_entry}


def caller_of(request: web.Request) -> tuple[Gate, Caller]:
    """Return the gate in force, and who asks.

    Raises:
        Unauthorized: It is nobody we know.
    """
    gate = request.app[DAEMON].gate
    caller = gate.keyring.find(
        request.headers, request.rel_url.query, gate.now_s(), owner=request.app[OWNER]
    )
    return gate, caller


def _entry(gate: Gate, name: str) -> dict[str, object]:
    found = gate.router.find(name)
    if found is None:
        raise ModelNotFound(f"The model `{name}` does not exist")
    owner, _, model = found.targets[0].partition("/")
    entry: dict[str, object] = {
        "id": name,
        "object": "model",
        "created": _made_s(gate, name),
        "owned_by": owner,
    }
    if found.route:
        entry["targets"] = list(found.targets)
    if window := gate.widest(found.targets):
        entry["context_window"] = window
    if owner == LOCAL:
        entry["state"] = gate.daemon.local.state(model) or "registered"
    return entry


def _made_s(gate: Gate, name: str) -> int:
    """Return when a model was made, in unix seconds: when the file of one of this box was written.

    Of others that is not known; the moment this configuration was loaded is a true one.
    """
    found = gate.router.find(name)
    owner, _, model = found.targets[0].partition("/") if found else ("", "", "")
    made = gate.daemon.local.made_s(model) if owner == LOCAL else None
    return made or int(gate.built_s)
