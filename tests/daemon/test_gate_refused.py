"""What a client is told where a provider refuses: the provider's words, and what to mend."""

import pytest
from gateway import body, error, gateway, whole
from upstreams import reads, says

from tollway.providers.refusals import is_no_such_path

OPENAI = b'{"error":{"message":"Invalid URL (POST /chat/completions)","type":"invalid"}}'
MODEL = b'{"error":{"message":"The model `m` does not exist","code":"model_not_found"}}'


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
