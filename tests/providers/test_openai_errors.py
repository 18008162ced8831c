"""Errors: OpenAI's shape towards clients, and a sentence out of any shape of a provider."""

import json
from collections.abc import AsyncIterator
from typing import Any, get_args

import openai
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseError, ResponseErrorEvent

from tollway.providers.dialects.openai_chat import DIALECT
from tollway.providers.dialects.openai_errors import error_within
from tollway.providers.dialects.openai_responses import DIALECT as RESPONSES
from tollway.providers.errors import GatewayError, RequestInvalid, UpstreamBroke, UpstreamRefused
from tollway.providers.refusals import verdict_of
from tollway.providers.sse import Splitter


def refused(status: int, code: str = "some_code") -> GatewayError:
    """Return an error of the gateway's own with a status."""
    error = GatewayError("It cannot be done", hint="Ask for less", param="max_tokens")
    error.status, error.code = status, code
    return error


def body(error: GatewayError) -> dict[str, Any]:
    """Return the `error` object that a client gets."""
    said: dict[str, Any] = json.loads(DIALECT.write_error(error, "call-1"))
    assert set(said) == {"error"}
    inner: dict[str, Any] = said["error"]
    return inner


def test_an_error_says_what_whose_and_which_call() -> None:
    """Message and hint in one text, since clients show one; the rest is for programs."""
    assert body(refused(400)) == {
        "message": "It cannot be done. Ask for less",
        "type": "invalid_request_error",
        "param": "max_tokens",
        "code": "some_code",
        "source": "gateway",
        "request_id": "call-1",
    }
    assert body(UpstreamBroke("It broke"))["source"] == "provider"
    assert body(UpstreamBroke("It broke"))["message"] == "It broke"


def test_a_providers_own_code_is_kept() -> None:
    """Programs shorten their prompt on `context_length_exceeded`, whoever is in between."""
    said = {"message": "too long", "type": "t", "param": "messages", "code": "context_too_long"}
    error = DIALECT.read_error(400, json.dumps({"error": said}).encode())
    got = body(error)
    assert (got["type"], got["param"], got["code"]) == ("t", "messages", "context_too_long")
    assert got["message"] == "The provider answered 400: too long"
    assert body(DIALECT.read_error(503, b""))["code"] == "upstream_refused"


FAILED = {"code": "insufficient_quota", "message": "You exceeded your quota"}


@pytest.mark.parametrize(
    "said",
    [
        {"type": "response.failed", "response": {"status": "failed", "error": FAILED}},
        {"type": "error", "sequence_number": 3, "param": None, **FAILED},
        {"type": "error", "error": {"type": "insufficient_quota", **FAILED}},
        {"id": "resp_1", "object": "response", "status": "failed", "error": FAILED, "output": []},
    ],
    ids=["failed", "flat", "nested", "whole"],
)
def test_a_response_that_failed_says_why(said: dict[str, Any]) -> None:
    """Its words were lost, its code with them, and an empty account was a fault of any kind."""
    error = error_within(json.dumps(said).encode())
    assert error.message == "The provider failed within its answer: You exceeded your quota"
    assert error.status == 429
    assert verdict_of(error) == "unpaid"
    assert body(error)["code"] == "insufficient_quota"
    assert body(error)["type"] in ("insufficient_quota", "rate_limit_error")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("rate_limit_exceeded", 429),
        ("context_length_exceeded", 400),
        ("image_too_large", 400),
        ("server_error", 502),
    ],
)
def test_a_code_within_an_answer_stands_for_its_status(code: str, status: int) -> None:
    """OpenAI sends some errors with 200: a library decides by the status whether to ask again."""
    failed = {"status": "failed", "error": {"code": code, "message": "No"}}
    error = error_within(json.dumps({"type": "response.failed", "response": failed}).encode())
    assert error.status == status


def test_every_code_of_a_response_s_own_is_the_caller_s_mistake_or_the_provider_s() -> None:
    """Who sent a picture that cannot be read was told of a failure, and asked twice more."""
    of_the_provider = {"server_error", "vector_store_timeout", "data_residency_mismatch"}
    for code in get_args(ResponseError.model_fields["code"].annotation):
        failed = {"response": {"error": {"code": code, "message": "No"}}}
        status = error_within(json.dumps(failed).encode()).status
        assert status == (502 if code in of_the_provider else 429 if "rate" in code else 400), code


def test_clients_of_responses_are_told_their_own_name_of_a_field() -> None:
    """The target may have been asked in Chat Completions, and says what is wrong in its words."""
    for said, told in (
        ("messages", "input"),
        ("messages[3].content", "input"),
        ("max_tokens", "max_output_tokens"),
        ("response_format", "text.format"),
        ("tools[0].type", "tools[0].type"),
        (None, None),
    ):
        inner = {"message": "no", "type": "t", "param": said, "code": "c"}
        error = DIALECT.read_error(400, json.dumps({"error": inner}).encode())
        assert json.loads(RESPONSES.write_error(error, "call-1"))["error"]["param"] == told
        event, _ = Splitter().feed(RESPONSES.error_event(error, "call-1"))
        assert event.data is not None
        assert json.loads(event.data)["param"] == told


@pytest.fixture
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    """Return the official client of a server that answers with the status asked for."""

    async def answer(request: web.Request) -> web.StreamResponse:
        said = await request.json()
        status = said["seed"]
        if status == 200:
            first = b'data: {"id":"1","object":"chat.completion.chunk","choices":[]}\n\n'
            last = DIALECT.error_event(UpstreamBroke("It broke off"), "call-1")
            return web.Response(body=first + last, content_type="text/event-stream")
        error = DIALECT.write_error(refused(status), "call-1")
        return web.Response(status=status, body=error, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=0
    ) as made:
        yield made
    await runner.cleanup()


async def test_the_official_client_raises_its_own_classes(client: openai.AsyncOpenAI) -> None:
    """It goes by the status, and finds message, code and param where it looks for them."""
    for status, raised in (
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (402, openai.APIStatusError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (503, openai.InternalServerError),
    ):
        with pytest.raises(raised) as caught:
            await client.chat.completions.create(model="m", messages=[], seed=status)
        assert (caught.value.code, caught.value.param) == ("some_code", "max_tokens"), status
        assert "It cannot be done. Ask for less" in caught.value.message


@pytest.mark.parametrize(
    ("last", "number"),
    [
        (b"", 0),
        (b'data: {"type":"response.output_text.delta","sequence_number":41,"delta":"x"}\n\n', 42),
        (b'data: {"sequence_number": 7, "delta": "\\"sequence_number\\":3"}\r\n\r\n', 8),
    ],
)
def test_the_events_of_a_broken_response_are_numbered_on(last: bytes, number: int) -> None:
    """OpenAI's types demand it, and the AI SDK passes an error event without one over."""
    first, second = Splitter().feed(
        RESPONSES.error_event(UpstreamBroke("It broke off"), "call-1", last)
    )
    event = ResponseErrorEvent.model_validate_json(first.data or b"")
    assert (event.sequence_number, event.message) == (number, "It broke off")
    said = json.loads(second.data or b"")
    assert (said["type"], said["sequence_number"]) == ("response.failed", number + 1)


async def test_the_official_client_raises_within_a_broken_stream(
    client: openai.AsyncOpenAI,
) -> None:
    """An answer that broke must not look like one that ended."""
    stream = await client.chat.completions.create(model="m", messages=[], seed=200, stream=True)
    with pytest.raises(openai.APIError, match="It broke off"):
        async for _ in stream:
            pass


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b'{"error": {"message": "No such model", "type": "x"}}', "No such model"),
        (b'{"error": "model \'x\' not found"}', "model 'x' not found"),
        (b'{"message": "invalid api token"}', "invalid api token"),
        (b'{"detail": "Invalid API Key"}', "Invalid API Key"),
        (
            b'{"detail": [{"loc": ["body", "n"], "msg": "too large", "type": "x"}]}',
            "body.n: too large",
        ),
        (
            b'{"object": "error", "message": {"detail": [{"type": "extra_forbidden",'
            b' "loc": ["body", "top_k"], "msg": "Extra inputs are not permitted"}]}}',
            "body.top_k: Extra inputs are not permitted",
        ),
        (b'[{"error": {"code": 400, "message": "API key not valid"}}]', "API key not valid"),
        (b'{"errors": [{"message": "one"}, {"message": "two"}]}', "one; two"),
        (
            b'{"error": {"message": "Provider returned error", "code": 429,'
            b' "metadata": {"raw": "{\\"error\\": {\\"message\\": \\"slow down\\"}}"}}}',
            "Provider returned error: slow down",
        ),
        (b"<html><head><title>502 Bad\nGateway</title></head></html>", "502 Bad Gateway"),
        (b"<!doctype html><p>no title", "a page of HTML"),
        (b"upstream connect error\r\n", "upstream connect error"),
    ],
)
def test_words_are_found_in_every_shape(said: bytes, text: str) -> None:
    """Each of these is some provider's way to say no."""
    error = DIALECT.read_error(400, said)
    assert error.message == f"The provider answered 400: {text}"
    assert (error.status, error.sent) == (400, False)


@pytest.mark.parametrize("said", [b"", b"{}", b"null", b"5", b"[]", b'{"error": null}'])
def test_an_error_without_words_has_its_status(said: bytes) -> None:
    """Nothing is made up."""
    assert DIALECT.read_error(503, said).message == "The provider answered 503"


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_body_gives_one_short_line(said: bytes) -> None:
    """It stands in a log line and in a terminal."""
    error = DIALECT.read_error(500, said)
    assert isinstance(error, UpstreamRefused)
    assert len(error.message) <= 500
    assert error.message.isprintable() or not any(ord(c) < 32 for c in error.message)
    assert not {"\n", "\r", "\x1b", "\x00"} & set(error.message)


def test_a_long_message_is_cut_and_a_key_in_it_is_hidden() -> None:
    """Some providers quote the prompt, some the key."""
    said = {"error": {"message": "Incorrect API key: sk-proj-abc123DEF456. " + "x" * 5000}}
    error = DIALECT.read_error(401, json.dumps(said).encode())
    assert len(error.message) <= 500
    assert "abc123" not in error.message
    assert "Incorrect API key: [key]" in error.message


def test_depth_and_weight_do_no_harm() -> None:
    """A body of nested brackets, or of a megabyte, is an error like any other."""
    for said in (b"[" * 100_000, b'{"error":' * 50_000, b"x" * 2_000_000):
        assert len(DIALECT.read_error(500, said).message) <= 500


def test_a_refusal_of_the_request_itself_names_the_field() -> None:
    """What the dialect refuses is written like any other error."""
    with pytest.raises(RequestInvalid) as caught:
        DIALECT.peek("chat", b'{"model": 5}')
    assert body(caught.value)["param"] == "model"
    assert body(caught.value)["code"] == "invalid_request"
