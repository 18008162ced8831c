"""The table of routes, driven: each is authenticated, metered and limited, or marked as free."""

from typing import Any

import msgspec
import pytest
from gateway import DONE, HEAD, KEY, USED, Gateway, body, chunk, gateway, whole
from shell import Reply, until
from upstreams import Step, reads, says

from tollway.daemon.app import ROUTES, CallRoute, Route
from tollway.daemon.ledger.calls import recent

LIMITS = """
[keys.laptop.limits]
rpm = 1
[models.none]
gguf = "none.gguf"
[routes.open]
to = ["up/m"]
allow_unbounded = true
[prices."up/units"]
input = 0
output = 0
rerank = 0.01
image = 0.01
audio_minute = 0.01
longest_audio = 1
speech = 10
moderation = 0.01
"""
TEXT = (
    b'{"id":"c","object":"text_completion","choices":[{"index":0,"text":"Hi","finish_reason":"stop"'
    b'}],"usage":{"prompt_tokens":7,"completion_tokens":3}}'
)
VECTOR = (
    b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1]}],"model":"m",'
    b'"usage":{"prompt_tokens":7,"total_tokens":7}}'
)
RESPONSE = (
    b'{"id":"r","object":"response","status":"completed","model":"m","output":[{"type":"message",'
    b'"id":"m","role":"assistant","status":"completed","content":[{"type":"output_text","text":'
    b'"Hi","annotations":[]}]}],"usage":{"input_tokens":7,"output_tokens":3,"total_tokens":10}}'
)
GEMINI = (
    b'{"contents":[{"role":"user","parts":[{"text":"Hi"}]}],"generationConfig":'
    b'{"maxOutputTokens":10}}'
)
HELLO = b'{"contents":[{"parts":[{"text":"Hi"}]}],"generationConfig":{"maxOutputTokens":10}}'
# What a call of each metered path sends, and what its upstream answers. A metered path that is
# not here fails: nothing has shown that it is metered.
CALLS: dict[str, tuple[bytes, bytes]] = {
    "/v1/chat/completions": (body(), whole()),
    "/v1/completions": (
        msgspec.json.encode({"model": "up/m", "prompt": "Hi", "max_tokens": 10}),
        whole(TEXT),
    ),
    "/v1/embeddings": (msgspec.json.encode({"model": "up/m", "input": "Hi"}), whole(VECTOR)),
    "/v1/responses": (
        msgspec.json.encode({"model": "up/m", "input": "Hi", "max_output_tokens": 16}),
        whole(RESPONSE),
    ),
    # Nothing bounds what it makes, so that a route must allow it while a budget applies.
    "/v1/responses/compact": (
        msgspec.json.encode({"model": "open", "input": "Hi"}),
        whole(RESPONSE.replace(b'"response"', b'"response.compaction"')),
    ),
    "/v1/messages": (body(), whole()),
    "/v1beta/models/{model:.+}:generateContent": (GEMINI, whole()),
    "/v1beta/models/{model:.+}:embedContent": (
        b'{"content":{"parts":[{"text":"Hi"}]}}',
        whole(VECTOR),
    ),
    "/v1beta/models/{model:.+}:batchEmbedContents": (
        b'{"requests":[{"content":{"parts":[{"text":"Hi"}]}}]}',
        whole(VECTOR),
    ),
    "/v1beta/models/{model:.+}:streamGenerateContent": (
        GEMINI,
        HEAD + chunk("Hi", "stop") + USED + DONE,
    ),
}
# What sells something else than tokens.
SOLD: dict[str, dict[str, Any]] = {
    "/v1/rerank": {"query": "Q", "documents": ["a"]},
    "/v1/images/generations": {"prompt": "a cat"},
    "/v1/moderations": {"input": "Hi"},
    "/v1/audio/speech": {"input": "Hi", "voice": "x"},
}
CALLS |= {
    path: (msgspec.json.encode({"model": "up/units", **said}), whole(b'{"data":[{}],"results":[]}'))
    for path, said in SOLD.items()
}
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nup/units\r\n--b\r\nContent-'
    b'Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\nX\r\n--b--\r\n'
)
CALLS["/v1/audio/transcriptions"] = (FORM, whole(b'{"text":"Hi"}'))
# Google's library says either version.
CALLS |= {f"/v1/{path.removeprefix('/v1beta/')}": said for path, said in CALLS.items()
          if path.startswith("/v1beta/")}  # fmt: skip
COUNTED = (
    msgspec.json.encode({"model": "up/m", "input": "Hi"}),
    whole(b'{"object":"response.input_tokens","input_tokens":7}'),
)
METERED = [route for route in ROUTES if route.use == "metered"]
FREE = [route for route in ROUTES if route.use == "free"]


def _name(route: Route | CallRoute) -> str:
    return f"{route.method} {route.path}"


async def _ask(gate: Gateway, route: Route | CallRoute, said: bytes, *, key: bool = True) -> Reply:
    path = route.path.replace("{name}", "none").replace("{model:.+}", "up/m")
    if ":stream" in path:
        path += "?alt=sse"
    headers = {"authorization": f"Bearer {KEY}"} if key and route.role == "caller" else {}
    if said is FORM:
        headers["content_type"] = "multipart/form-data; boundary=b"
    admin = route.role == "owner"
    method = "HEAD" if path == "/ui/events" else route.method  # else it would not end
    return await gate.daemon.ask(method, path, said, admin=admin, **headers)


def _used(gate: Gateway) -> tuple[int, int, int]:
    """Return what is used of the key's limit, what is spent or held, and the rows there are."""
    daemon = gate.daemon.server.daemon
    (limit,) = daemon.gate.limits.states()
    spent = sum(one.settled_nanousd + one.held_nanousd for one in daemon.gate.purse.states())
    return limit.most - limit.left, spent, len(recent(daemon.ledger.path, limit=5))


@pytest.mark.parametrize("route", METERED, ids=_name)
async def test_a_metered_route_asks_who_calls_counts_it_bills_it_and_holds_it_back(
    route: Route | CallRoute,
) -> None:
    """No endpoint is a way round the limits, the budgets or the ledger."""
    assert route.path in CALLS, f"show how {route.path} is metered: add a call to CALLS"
    assert route.role == "caller"
    said, answered = CALLS[route.path]
    script: list[Step] = [reads(), says(answered)]
    async with gateway([script], more=LIMITS) as gate:
        assert (await _ask(gate, route, said, key=False)).status == 401
        assert _used(gate) == (0, 0, 0)
        reply = await _ask(gate, route, said)
        assert reply.status == 200
        row = await gate.row(reply)
        assert row.call.cost_nanousd > 0
        assert _used(gate) == (1, row.call.cost_nanousd, 1)
        reply = await _ask(gate, route, said)
        assert reply.status == 429
        # Nobody waits for the row of a refusal.
        await until(lambda: _used(gate)[2] == 2)
        row = await gate.row(reply)
        assert (row.call.state, row.call.cost_nanousd) == ("refused", 0)
        assert row.call.error == "rate_limit_exceeded"
        assert len(gate.ups[0].requests) == 1


@pytest.mark.parametrize("route", FREE, ids=_name)
async def test_a_free_route_reaches_no_provider_and_uses_nothing_up(
    route: Route | CallRoute,
) -> None:
    """What is not metered may cost nobody anything."""
    async with gateway([[reads(), says(whole())]], more=LIMITS) as gate:
        reply = await _ask(gate, route, b"{}" if route.method == "POST" else b"")
        assert reply.status in {200, 400, 404, 503}, reply.body
        assert (route.role, reply.status) != ("caller", 401)
        assert _used(gate) == (0, 0, 0)
        assert not gate.ups[0].requests


async def test_a_count_of_tokens_costs_nothing_and_meets_the_limits_where_a_provider_makes_it() -> (
    None
):
    """No token of it counts, and no money; but a provider takes only so many requests."""
    limits = "[keys.laptop.limits]\nrpm = 1\ntpm = 2000\n"
    said, answered = COUNTED
    async with gateway([[reads(), says(answered)]], more=limits) as gate:
        path = "/v1/responses/input_tokens"
        assert (await gate.daemon.ask("POST", path, said)).status == 401
        reply = await gate.ask(said, path)
        assert (reply.status, reply.json()["input_tokens"]) == (200, 7)
        assert (await gate.row(reply)).call.cost_nanousd == 0
        left = {one.limit: one.left for one in gate.daemon.server.daemon.gate.limits.states()}
        assert left == {"rpm": 0, "tpm": 2000}
        assert (await gate.ask(said, path)).status == 429


async def test_a_refusal_is_the_same_on_the_admin_socket() -> None:
    """The owner's calls are calls too: those of the local user, and of the whole box."""
    limits = "[server.limits]\nrpm = 1\n"
    async with gateway([[reads(), says(whole())]], more=limits) as gate:
        path = METERED[0].path
        statuses = [
            (await gate.daemon.ask("POST", path, CALLS[path][0], admin=True)).status
            for _ in range(2)
        ]
        assert statuses == [200, 429]
