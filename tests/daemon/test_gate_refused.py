"""What a client is told where a provider refuses: the provider's words, and what to mend."""

import pytest
from gateway import body, error, gateway, whole
from upstreams import Step, reads, says
from wire.recordings import recordings

from tollway.providers.refusals import is_no_such_path

OPENAI = b'{"error":{"message":"Invalid URL (POST /chat/completions)","type":"invalid"}}'
SERVES: list[Step] = [reads(), says(whole())]
ROUTE = """
[routes.r]
to = ["up/m", "up1/x"]
retries = 3
[prices."up/m"]
input = 1
output = 2
context_window = 1000
[prices."up1/x"]
input = 1
output = 2
context_window = 1000
"""
ASK = body(model="r")
MODEL = b'{"error":{"message":"The model `m` does not exist","code":"model_not_found"}}'


def refuses(status: str, said: bytes, *headers: str) -> list[Step]:
    """Return a script that refuses."""
    return [reads(), says(whole(said, *headers, status=status))]


@pytest.mark.parametrize(
    ("status", "said", "of_path"),
    [
        (404, b'{"detail":"Not Found"}', True),
        (404, b"404 page not found\n", True),
        (404, b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}', True),
        (404, OPENAI, True),
        (404, b'{"error":"Unexpected endpoint or method. (POST /v1/v1/chat/completions)"}', True),
        (404, b'{"type":"error","error":{"type":"not_found_error","message":"Not Found"}}', True),
        (404, b'{"error":{"code":"404","message":"Resource not found"}}', True),
        (404, b"<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>", True),
        (404, b"", True),
        (405, b'{"detail":"Method Not Allowed"}', True),
        (404, MODEL, False),
        (404, b'{"error":"model \'llama3\' not found"}', False),
        (404, b'{"type":"error","error":{"type":"not_found_error","message":"model: c"}}', False),
        (404, b'{"error":{"message":"Previous response with id \'resp_1\' not found."}}', False),
        (404, b'{"error":{"message":"No such File object: file-1"}}', False),
        (404, b"[]", False),
        (400, b'{"detail":"Not Found"}', False),
    ],
)
def test_a_path_that_is_missing_is_told_from_all_else(
    status: int, said: bytes, of_path: bool
) -> None:
    """By the words of the servers that there are; what names a thing is about that thing."""
    assert is_no_such_path(status, said) is of_path


@pytest.mark.parametrize(("said", "hints"), [(OPENAI, True), (MODEL, False)])
async def test_a_wrong_base_url_is_named(said: bytes, hints: bool) -> None:
    """A bare "Not Found" says nothing of where the address stands; the provider's words stay."""
    async with gateway([[reads(), says(whole(said, status="404 Not Found"))]]) as gate:
        reply = await gate.ask(body())
        assert reply.status == 404
        words = error(reply)["message"]
        assert words.startswith("The provider answered 404: ")
        assert ("`base_url` of `[providers.up]` in gateway.toml" in words) is hints
        assert ("no `/chat/completions` there" in words) is hints


# Groq's, of a prompt that is longer than what a key may use in a minute.
A_MINUTE = (
    b'{"error":{"message":"Request too large for model `m` in organization `org_x` service tier'
    b" `on_demand` on tokens per minute (TPM): Limit 6000, Requested 12089, please reduce your"
    b' message size and try again.","type":"tokens","code":"rate_limit_exceeded"}}'
)
NO_SPARE = b'{"error":{"message":"Flex tier capacity exceeded","code":"capacity_exceeded"}}'


async def test_more_than_a_key_has_for_a_minute_is_no_matter_of_the_window() -> None:
    """A target with a window as small takes the prompt; the one that refused takes smaller ones."""
    too_much = refuses("413 Too Large", A_MINUTE, "retry-after: 64")
    async with gateway([too_much, SERVES], [SERVES], more=ROUTE) as gate:
        replies = [await gate.ask(ASK) for _ in range(2)]
        assert [one.headers["x-tollway-target"] for one in replies] == ["up1/x", "up/m"]
        assert [one.headers["x-tollway-attempts"] for one in replies] == ["2", "1"]


@pytest.mark.parametrize(
    ("status", "headers", "again"),
    [
        ("429 Slow", ["Retry-After: 61"], "false"),
        ("503 Busy", ["x-ratelimit-reset-requests: 6m0s"], "false"),
        ("500 Down", ["Retry-After: 3600"], "false"),
        ("500 Down", ["Retry-After: 3600", "retry-after-ms: 900"], None),
        ("500 Down", ["x-ratelimit-reset-requests: 6m0s"], None),
        ("429 Slow", ["Retry-After: 2592000"], "false"),
        ("429 Slow", ["Retry-After: 60"], None),
        ("429 Slow", ["Retry-After: 3600", "x-should-retry: true"], "true"),
    ],
)
async def test_a_client_is_not_sent_to_sleep_for_longer_than_a_minute(
    status: str, headers: list[str], again: str | None
) -> None:
    """Anthropic's library waits as long as it is told, were it a day; a provider's word stands."""
    async with gateway([refuses(status, b"{}", *headers)]) as gate:
        assert (await gate.ask()).headers.get("x-should-retry") == again


async def test_no_room_on_spare_machines_is_tried_elsewhere_and_rests() -> None:
    """Groq's 498; Cohere's is of the prompt, which nobody else is asked to take."""
    async with gateway([refuses("498 No", NO_SPARE), SERVES], [SERVES], more=ROUTE) as gate:
        replies = [await gate.ask(ASK) for _ in range(2)]
        assert [one.headers["x-tollway-target"] for one in replies] == ["up1/x"] * 2
    async with gateway([refuses("498 No", NO_SPARE)]) as gate:
        assert (await gate.ask(body())).status == 503  # upon which clients ask again
    unsafe = refuses("498 No", b'{"message":"blocked by our usage guidelines"}')
    async with gateway([unsafe, SERVES], [SERVES], more=ROUTE) as gate:
        assert (await gate.ask(ASK)).status == 498
        assert (await gate.ask(ASK)).headers["x-tollway-target"] == "up/m"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(
            b'{"object":"error","message":"Invalid model: m","type":"invalid_model","code":"1500"}',
            id="Mistral",
        ),
        pytest.param(
            b'{"error":{"message":"Invalid model \'m\'. Permitted models can be found in the'
            b' documentation","type":"invalid_model","code":400}}',
            id="Perplexity",
        ),
        pytest.param(
            b'{"error":{"message":"Model Not Exist","type":"invalid_request_error"}}', id="DeepSeek"
        ),
        pytest.param(
            b'{"error":{"message":"a/m is not a valid model ID","code":400}}', id="OpenRouter"
        ),
        pytest.param(
            b'{"error":{"message":"The model `m` has been decommissioned and is no longer'
            b' supported.","type":"invalid_request_error","code":"model_decommissioned"}}',
            id="Groq",  # ItzCrazyKns/Vane#771
        ),
        pytest.param(b'{"message":"The provided model identifier is invalid."}', id="Bedrock"),
        pytest.param(
            b'{"message":"Invocation of model ID m with on-demand throughput isn\xe2\x80\x99t'
            b' supported. Retry your request with the ID or ARN of an inference profile"}',
            id="Bedrock, without a profile",
        ),
    ],
)
async def test_a_model_that_there_is_not_is_tried_elsewhere_whatever_its_status(
    said: bytes,
) -> None:
    """A provider that says it with 400 ended the call, which a 404 would have sent elsewhere."""
    async with gateway([refuses("400 Bad", said)], [SERVES], more=ROUTE) as gate:
        assert (await gate.ask(ASK)).headers["x-tollway-target"] == "up1/x"
        reply = await gate.ask()
        assert (reply.status, error(reply)["source"]) == (404, "provider")


# Groq's, recorded.
SPOILT = next(one.body for one in recordings() if one.id == "groq/chat_err400_gpt-oss-120b")


async def test_a_call_that_the_model_spoilt_is_no_mistake_of_its_caller() -> None:
    """Groq refuses what its own model made with 400: asked again, or elsewhere, it is made anew."""
    async with gateway([refuses("400 Bad", SPOILT), SERVES], [SERVES], more=ROUTE) as gate:
        gate.daemon.server.daemon.health.chance = lambda: 0.0
        reply = await gate.ask(ASK)
        assert (reply.status, reply.headers["x-tollway-target"]) == (200, "up/m")
        assert reply.headers["x-tollway-attempts"] == "2"
    async with gateway([refuses("400 Bad", SPOILT)]) as gate:
        replies = [await gate.ask() for _ in range(6)]
        assert {one.status for one in replies} == {502}
        assert "did not match schema" in error(replies[0])["message"]
        assert gate.daemon.server.daemon.health.failing() == {}
