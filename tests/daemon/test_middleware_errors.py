"""Each call has an id and one log line; errors come in words, and secrets in neither."""

import re

import msgspec
import pytest
from aiohttp import web
from shell import Running, running

from tollway.daemon import app as application
from tollway.daemon.app import Route

CANARY = "tw-CANARY0123456789abcdefCANARY"
UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


async def lines(daemon: Running) -> str:
    """Return the whole log, once it has been written out."""
    daemon.server.output.flush()
    return daemon.log.read_text()


async def test_every_answer_carries_the_id_of_its_call() -> None:
    """The id that a client reports must be the one in the log."""
    async with running() as daemon:
        seen = set()
        for method, path in (("GET", "/healthz"), ("GET", "/none"), ("POST", "/v1/embeddings")):
            answer = await daemon.ask(method, path, b"" if method == "GET" else b"{}")
            call_id = answer.headers["x-tollway-request-id"]
            assert re.fullmatch(UUID7, call_id)
            assert answer.headers["x-request-id"] == call_id
            assert answer.headers["server"] == "tollway"
            assert f"{method} {path} {answer.status}" in await lines(daemon)
            assert call_id in await lines(daemon)
            seen.add(call_id)
        assert len(seen) == 3


async def test_a_malformed_request_is_answered_with_an_id_too() -> None:
    """It never reaches a middleware, and is still told apart."""
    async with running() as daemon:
        answer = await daemon.raw(b"GET / HTTP/1.1\r\nbroken\r\n\r\n")
        assert re.search(b"(?i)x-tollway-request-id: " + UUID7.encode(), answer)
        assert b"server: tollway\r\n" in answer.lower()
        assert b"python" not in answer.lower()


async def test_the_id_of_a_client_is_not_taken_for_ours() -> None:
    """A client that could choose the id could make two calls look like one."""
    async with running() as daemon:
        answer = await daemon.ask("GET", "/healthz", x_request_id="mine")
        assert answer.headers["x-request-id"] != "mine"


async def test_no_query_header_or_body_is_ever_logged() -> None:
    """A key can stand in each of them."""
    async with running() as daemon:
        body = msgspec.json.encode({"model": "m", "messages": [], "user": CANARY})
        await daemon.ask("POST", f"/v1/chat/completions?key={CANARY}", body)
        await daemon.ask("GET", f"/v1/models?key={CANARY}", authorization=f"Bearer {CANARY}")
        await daemon.ask("GET", f"/healthz?a={CANARY}", x_api_key=CANARY, cookie=CANARY)
        await daemon.ask("GET", "/none", user_agent=CANARY, referer=CANARY)
        await daemon.raw(f"GET / HTTP/1.1\r\nX: {CANARY}\nY: z\r\n\r\n".encode())
        said = await lines(daemon)
        assert "GET /healthz 200" in said
        assert "CANARY" not in said


async def test_a_key_that_a_client_wrote_into_a_path_or_model_is_masked() -> None:
    """Paths and model names are logged; a key put there by mistake is not."""
    async with running() as daemon:
        await daemon.ask("GET", f"/v1/models/{CANARY}")
        await daemon.ask("GET", f"/{CANARY}/x")
        body = msgspec.json.encode({"model": CANARY, "messages": []})
        await daemon.ask("POST", "/v1/chat/completions", body)
        said = await lines(daemon)
        assert "GET /tw-***/x 404" in said
        assert "CANARY" not in said


async def test_a_client_cannot_forge_a_line_of_the_log() -> None:
    """A model name with a line end in it stays on its line."""
    async with running() as daemon:
        forged = "m\n2026-01-01T00:00:00.000Z info    GET /forged 200"
        body = msgspec.json.encode({"model": forged, "messages": []})
        await daemon.ask("POST", "/v1/chat/completions", body)
        said = (await lines(daemon)).splitlines()
        assert not [line for line in said if line.startswith("2026-01-01")]


async def test_json_lines_are_json() -> None:
    """`log_format = "json"` is for programs: one object a line, numbers as numbers."""
    async with running(server='single_user = true\nlog_format = "json"') as daemon:
        await daemon.ask("GET", "/healthz")
        said = [msgspec.json.decode(line) for line in (await lines(daemon)).splitlines()]
        call = next(line for line in said if line.get("path") == "/healthz")
        assert (call["method"], call["status"], call["level"]) == ("GET", 200, "info")
        assert call["ms"] >= 0


async def test_calls_are_not_logged_above_info() -> None:
    """`log_level` says what is worth a line."""
    async with running(server='single_user = true\nlog_level = "warning"') as daemon:
        await daemon.ask("GET", "/healthz")
        assert await lines(daemon) == ""


async def test_a_crash_is_a_500_with_the_id_and_its_traceback_is_in_the_log_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whose bug it is, is ours: the client gets an id to report, and no inside of ours."""
    secret = CANARY

    async def crash(_request: web.Request) -> web.Response:
        raise RuntimeError(f"with {secret} in it")

    routes = (*application.ROUTES, Route("GET", "/crash", crash, "open", "free"))
    monkeypatch.setattr(application, "ROUTES", routes)
    async with running() as daemon:
        answer = await daemon.ask("GET", "/crash")
        assert answer.status == 500
        assert b"RuntimeError" not in answer.body
        call_id = answer.headers["x-tollway-request-id"]
        assert call_id in answer.json()["error"]["message"]
        said = await lines(daemon)
        assert "Traceback" in said
        assert "RuntimeError" in said
        assert "CANARY" not in said
        assert (await daemon.ask("GET", "/healthz")).status == 200


async def test_a_crash_within_an_answer_cuts_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error cannot be put behind half an answer: the end that is missing tells the client."""

    async def crash(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"half")
        raise RuntimeError("too late")

    routes = (*application.ROUTES, Route("GET", "/crash", crash, "open", "free"))
    monkeypatch.setattr(application, "ROUTES", routes)
    async with running() as daemon:
        answer = await daemon.raw(b"GET /crash HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.endswith(b"4\r\nhalf\r\n")
        assert "too late" in await lines(daemon)


async def test_secrets_of_providers_are_masked_wherever_they_turn_up() -> None:
    """The second line of defence: the values that the gate has resolved are never written."""
    async with running() as daemon:
        daemon.server.output.mask.hide(["sk-provider-secret"])
        daemon.server.output.put("error", "it said sk-provider-secret", {})
        said = await lines(daemon)
        assert "it said ***" in said


@pytest.mark.parametrize(
    ("method", "path", "why"),
    [
        ("GET", "/v1/responses/resp_1", "of this key is kept here"),
        ("GET", "/v1/responses/resp_1/more", "keeps no conversations"),
        ("POST", "/v1/files", "keeps no conversations"),
        ("POST", "/chat/completions", "end in `/v1`"),
        ("POST", "/v1/images/edits", "could not be bounded before the call"),
        ("GET", "/health/liveliness", "`/readyz` that a call would be taken"),
        ("POST", "/key/generate", "Administration is the command `tollway`"),
        ("GET", "/v1/model/info", "Administration is the command `tollway`"),
        ("GET", "/running", "Administration is the command `tollway`"),
        ("GET", "/model/models", "`GET /v1/models` is"),
        ("POST", "/openai/deployments/m/chat/completions", "use OpenAI's client"),
        ("POST", "/openai/v1/chat/completions", "Groq's client puts `/openai/v1`"),
        ("POST", "/model/m/converse", "Bedrock's own API is not spoken here"),
        ("POST", "/v2/chat", "Cohere's own API is not spoken here"),
        ("POST", "/v1/projects/p/locations/l/publishers/google/models/m:predict", "Vertex AI's"),
        ("GET", "/elsewhere", "Base URLs of OpenAI clients end in `/v1`"),
    ],
)
async def test_what_is_not_served_says_why(method: str, path: str, why: str) -> None:
    """A bare 404 would be taken for a wrong address."""
    async with running() as daemon:
        answer = await daemon.ask(method, path, b"" if method == "GET" else b"{}")
        assert answer.status == 404
        assert why in answer.json()["error"]["message"]


CHAT, SAID = "/v1/chat/completions", "/v1/messages"
ASTRAY = [
    ("/chat/completions", f"POST {CHAT}", "/v1"),
    ("/v1/v1/chat/completions", f"POST {CHAT}", ""),
    ("/v1/chat/completions/chat/completions", f"POST {CHAT}", "/v1"),
    ("/v1/chat/completions/v1/chat/completions", f"POST {CHAT}", ""),
    ("//v1/chat/completions", f"POST {CHAT}", ""),
    ("/v1//chat/completions?a=b", f"POST {CHAT}", "/v1"),
    ("/v1/chat/completions/", f"POST {CHAT}", "/v1"),
    ("/v1beta/openai/chat/completions", f"POST {CHAT}", "/v1"),
    ("/v1/v1/messages", f"POST {SAID}", ""),
    ("/messages", f"POST {SAID}", "/v1"),
    ("/v1/messages/v1/messages/count_tokens", "POST /v1/messages/count_tokens", ""),
    ("/v1/responses/responses", "POST /v1/responses", "/v1"),
    ("/v1/v1beta/models/m:countTokens", "POST /v1beta/models/m:countTokens", "/v1beta"),
    ("/v1beta/v1beta/models/m:countTokens", "POST /v1beta/models/m:countTokens", ""),
    ("/models/m:countTokens", "POST /v1beta/models/m:countTokens", "/v1beta"),
    ("/v1beta/models/m:countTokens/", "POST /v1beta/models/m:countTokens", "/v1beta"),
    ("/models", "GET /v1/models", "/v1"),
    ("/v1/v1/models", "GET /v1/models", ""),
]


@pytest.mark.parametrize(("path", "meant", "base"), ASTRAY)
async def test_a_wrong_base_url_is_told_the_right_one(path: str, meant: str, base: str) -> None:
    """The commonest mistake; what is meant is named and not served, for each path has one role."""
    async with running() as daemon:
        method = meant.partition(" ")[0]
        answer = await daemon.ask(method, path, b"" if method == "GET" else b"{}")
        assert answer.status == 404
        said = answer.json()["error"]["message"]
        url = f"http://127.0.0.1:{daemon.port}{base}"
        assert f"`{meant}` is: give the client `{url}` as its base URL" in said


async def test_what_no_base_url_mends_names_those_of_each_api() -> None:
    """Ollama's clients, and paths that are spelled wrongly."""
    async with running(server="single_user = true\nbehind_proxy = true") as daemon:
        for path in ("/api/chat", "/v1/chat/completion", "/v1", "/V1/chat/completionS"):
            answer = await daemon.ask("POST", path, b"{}")
            assert answer.status == 404
            # Which scheme its clients use a proxy knows.
            assert f"`127.0.0.1:{daemon.port}/v1`" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/messages", {"type", "error", "request_id"}),
        ("/v1/responses", {"error"}),
        ("/v1beta/models/m:generateContent", {"error"}),
    ],
)
async def test_a_refusal_is_in_the_words_of_the_path_s_own_api(path: str, shape: set[str]) -> None:
    """A client library of one API reads no other's errors."""
    async with running("[teams.ml]", server="") as daemon:
        answer = await daemon.ask("POST", path, b"{}")
        assert answer.status == 401
        assert set(answer.json()) == shape
        if path.startswith("/v1beta"):
            assert answer.json()["error"]["status"] == "UNAUTHENTICATED"
        if path == "/v1/messages":
            assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("name", "status"),
    [("Host", 403), ("Content-Type", 415), ("Content-Encoding", 415), ("Expect", 417)],
)
async def test_a_header_that_is_no_text_is_refused_in_words(name: str, status: int) -> None:
    """Bytes that are no UTF-8 come as halves of characters: an answer that quotes them is one."""
    async with running() as daemon:
        said = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": "2"}
        head = b"".join(
            f"{one}: {value}\r\n".encode() for one, value in said.items() if one != name
        )
        odd = name.encode() + b": \xff\r\n"
        client = await daemon.connect()
        await client.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + head + odd + b"\r\n{}")
        answer = await client.answer()
        client.close()
        assert answer.status == status
        assert answer.json()["error"]["source"] == "gateway"
        assert "crashed" not in await lines(daemon)


async def test_a_web_socket_is_refused_as_codex_expects_it() -> None:
    """At 426 it asks over HTTP at once; else it tries seven times, for as many seconds."""
    upgrade = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13"}
    async with running() as daemon:
        client = await daemon.connect()
        head = "".join(f"{name}: {value}\r\n" for name, value in upgrade.items())
        await client.send(f"GET /v1/responses HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
        answer = await client.answer()
        client.close()
        assert answer.status == 426
        assert answer.headers["upgrade"] == "HTTP/1.1"
        assert "POST" in answer.json()["error"]["message"]


async def test_a_request_without_a_body_is_told_so() -> None:
    """It was called JSON that is cut short."""
    async with running() as daemon:
        for body in (b"", b" \n"):
            answer = await daemon.ask("POST", CHAT, body, content_type="application/json",
                                      content_length=str(len(body)))  # fmt: skip
            assert answer.status == 400
            assert "The request's body is empty" in answer.json()["error"]["message"]
