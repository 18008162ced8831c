"""A prompt that does not fit, in the words by which each client's programs know it."""

import json

import pytest
from wire.recordings import Recording, recordings

from tollway.providers.dialects import anthropic_errors, gemini_errors, openai_errors
from tollway.providers.dialects.error_words import error_within, read_error
from tollway.providers.errors import GatewayError, UpstreamRefused
from tollway.providers.refusals import is_overflow

TOO_LONG = [one for one in recordings() if is_overflow(one.status, one.body)]
OTHERS = [one for one in recordings() if one.status >= 400 and one not in TOO_LONG]


def told(error: GatewayError) -> tuple[str, object]:
    """Return Anthropic's message and OpenAI's code for an error."""
    as_anthropic = json.loads(anthropic_errors.write_error(error, "call"))["error"]
    as_openai = json.loads(openai_errors.write_error(error, "call"))["error"]
    return as_anthropic["message"], as_openai["code"]


@pytest.mark.parametrize("recording", TOO_LONG, ids=lambda one: one.id)
def test_each_client_is_told_in_its_own_provider_s_words(recording: Recording) -> None:
    """Claude Code shortens its conversation when it reads Anthropic's; others go by OpenAI's code.

    LiteLLM, by which OpenHands knows when to, goes by OpenAI's words alone. From a server
    of another kind none of them heard more than its words, and an agent was stuck.
    """
    message, code = told(read_error(recording.status, recording.body))
    assert message.lower().count("prompt is too long") == 1
    assert code == "context_length_exceeded"
    as_openai = openai_errors.write_error(read_error(recording.status, recording.body), "call")
    message = json.loads(as_openai)["error"]["message"]
    assert message.lower().count("this model's maximum context length is") == 1
    told_google = gemini_errors.write_error(read_error(recording.status, recording.body), "call")
    message = json.loads(told_google)["error"]["message"]
    assert message.count("exceeds the maximum number of tokens allowed") == 1


def test_google_s_own_words_are_not_said_twice() -> None:
    """They have the numbers."""
    words = (
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
    )
    body = json.dumps({"error": {"code": 400, "message": words, "status": "INVALID_ARGUMENT"}})
    told_google = gemini_errors.write_error(read_error(400, body.encode()), "call")
    message = json.loads(told_google)["error"]["message"]
    assert message.count("number of tokens allowed") == 1


def test_there_are_recordings_of_several_providers() -> None:
    """Each says it in words of its own."""
    assert {one.provider for one in TOO_LONG} >= {"openai", "openrouter", "llamacpp"}


@pytest.mark.parametrize("recording", OTHERS, ids=lambda one: one.id)
def test_other_refusals_are_not_taken_for_it(recording: Recording) -> None:
    """An agent would throw its conversation away."""
    message, code = told(read_error(recording.status, recording.body))
    assert "prompt is too long" not in message.lower()
    assert code != "context_length_exceeded"


def test_within_an_answer_it_is_the_same() -> None:
    """OpenAI says it so to streams of the Responses API."""
    error = {"code": "context_length_exceeded", "message": "Your input exceeds the window"}
    failed = {"type": "response.failed", "response": {"status": "failed", "error": error}}
    message, code = told(error_within(json.dumps(failed).encode()))
    assert message.startswith("prompt is too long: ")
    assert code == "context_length_exceeded"


def test_too_many_tokens_a_minute_are_another_thing() -> None:
    """They go away by themselves."""
    body = b'{"error":{"message":"Too many tokens per minute"}}'
    message, code = told(UpstreamRefused("Too many tokens per minute", status=429, body=body))
    assert (message, code) == ("Too many tokens per minute", "upstream_refused")
