"""What providers say of an output limit that is too much: words that were met in the wild."""

import json

import pytest

from tollway.providers.output_limits import lower_limit

LASTING = [
    # opencode-ai/opencode#140, charmbracelet/catwalk#41
    (
        "max_tokens is too large: 50000. This model supports at most 32768 completion tokens,"
        " whereas you provided 50000.",
        32768,
    ),
    (
        "Invalid 'max_output_tokens': integer above maximum value. Expected a value <= 16384, but"
        " got 32000 instead.",
        16384,
    ),
    # deepseek-ai/DeepSeek-V3#69
    ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", 8192),
    ("<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 8192]", 8192),
    # khoj-ai/khoj#1236, Alishahryar1/free-claude-code#955, skapadia3214/groq-moa#8
    (
        "`max_completion_tokens` must be less than or equal to `8192`, the maximum value for"
        " `max_completion_tokens` is less than the `context_window` for this model",
        8192,
    ),
    (
        "max_completion_tokens must be less than or equal to 40960, the maximum value for"
        " max_completion_tokens is less than the context_window for this model",
        40960,
    ),
    ("max_tokens for `llama-3.1-8b-instant` must be less than or equal to 8000", 8000),
    # continuedev/continue#10724
    (
        "max_tokens: 64000 > 4096, which is the maximum allowed number of output tokens for"
        " claude-3-haiku-20240307",
        4096,
    ),
    # BerriAI/litellm#23198, langgenius/dify#10390
    ("The maximum tokens you requested exceeds the model limit of 10000.", 10000),
    # stackblitz-labs/bolt.diy#955
    (
        "Unable to submit request because it has a maxOutputTokens value of 655360 but the"
        " supported range is from 1 (inclusive) to 8193 (exclusive). Update the value and try"
        " again.",
        8192,
    ),
]
OF_ONE_PROMPT = [
    # farion1231/cc-switch#1022
    (
        "'max_tokens' or 'max_completion_tokens' is too large: 64000. This model's maximum context"
        " length is 65536 tokens and your request has 17459 input tokens (64000 > 65536 - 17459)."
        " (parameter=max_tokens, value=64000)",
        48077,
    ),
    # vllm-project/vllm#42474
    (
        "This model's maximum context length is 128000 tokens. However, you requested 64000 output"
        " tokens and your prompt contains at least 64001 input tokens, for a total of at least"
        " 128001 tokens.",
        16000,
    ),
    (
        "This model's maximum context length is 16384 tokens. However, you requested 74000 tokens"
        " (10000 in the messages, 64000 in the completion). Please reduce the length of the"
        " messages or completion.",
        6384,
    ),
    (
        "This endpoint's maximum context length is 131072 tokens. However, you requested about"
        " 164000 tokens (100000 of text input, 64000 in the output).",
        31072,
    ),
    (
        "Requested token count exceeds the model's maximum context length of 65536 tokens. You"
        " requested a total of 81459 tokens: 17459 tokens from the input messages and 64000 tokens"
        " for the completion.",
        48077,
    ),
    (
        "input length and `max_tokens` exceed context limit: 188240 + 64000 > 200000, decrease"
        " input length or `max_tokens` and try again",
        11760,
    ),
]
OTHERS = [
    "prompt is too long: 210000 tokens > 200000 maximum",
    # No room for an answer: the prompt is what is too long.
    "This model's maximum context length is 16384 tokens. However, you requested 79384 tokens"
    " (15384 in the messages, 64000 in the completion).",
    "max_tokens must be at least 1",
    # Of other fields (thisisartium/continuous-alignment-testing#25).
    "Invalid 'n': integer above maximum value. Expected a value <= 128, but got 130 instead.",
    "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.",
    "Unable to submit request because it has a topK value of 100 but the supported range is from 1"
    " (inclusive) to 41 (exclusive). Update the value and try again.",
    # More than was asked for: something else is wrong.
    "This model supports at most 128000 completion tokens",
    "",
]


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(("words", "limit"), LASTING)
def test_the_longest_answer_of_a_model_is_known_from_its_refusal(
    words: str, limit: int, status: int
) -> None:
    """It holds for all that the model is asked later."""
    found = lower_limit(status, json.dumps({"error": {"message": words}}).encode(), 64_000)
    assert found is not None
    assert (found.tokens, found.lasting) == (limit, True)
    assert lower_limit(429, words.encode(), 64_000) is None


@pytest.mark.parametrize(("words", "limit"), OF_ONE_PROMPT)
def test_the_room_behind_a_prompt_is_known_from_a_refusal(words: str, limit: int) -> None:
    """It holds for that prompt alone; where the prompt was not counted to its end, a guess."""
    found = lower_limit(400, json.dumps({"message": words}).encode(), 64_000)
    assert found is not None
    assert (found.tokens, found.lasting) == (limit, False)


@pytest.mark.parametrize("words", OTHERS)
def test_what_says_nothing_of_the_limit_lowers_none(words: str) -> None:
    """A prompt that leaves no room for an answer is one that does not fit."""
    assert lower_limit(400, json.dumps({"error": words}).encode(), 64_000) is None
