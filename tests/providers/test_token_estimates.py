"""The estimate of a request's tokens, against what providers counted: it is never low."""

import base64

from translated import CODECS, OPENAI, answered, asked, codec_of, recorded

from tollway.daemon.gate.translate import without_offers
from tollway.providers.dialects.dialect import Facts
from tollway.providers.errors import Untranslatable
from tollway.providers.tokens import estimate, estimate_request


def test_no_recorded_prompt_had_more_tokens_than_are_estimated() -> None:
    """But where the provider searched and read on, or has a search of its own among tools."""
    tried = 0
    for recording in answered():
        codec = codec_of(recording)
        if codec is None or codec.name not in CODECS:
            continue
        if "tool-search" in recording.id or any("web_search" in one for one in recording.features):
            continue
        try:
            said, _ = without_offers(asked(recording))
            body = OPENAI.write_request(said, Facts("m")).body
        except Untranslatable:
            continue
        _, answer = recorded(recording)
        if answer.usage is None or not said.messages:
            continue
        tried += 1
        assert estimate_request(body) >= answer.usage.input_total, recording.id
    assert tried > 80


def test_what_is_no_prose_needs_more() -> None:
    """Base64, names in code and runs of letters have few letters a token."""
    encoded = base64.b64encode(bytes(range(256)) * 4).decode()
    assert estimate(encoded) > len(encoded) / 2
    assert estimate("getUserNameFromRequestContext") == 8
    assert estimate("x" * 300) == 100
    assert estimate("Say hello to the people of the town") == 9
