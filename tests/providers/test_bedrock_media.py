"""Pictures, sounds, videos and files on the way to Bedrock, which has a list of each."""

from typing import Any

import msgspec
import pytest
from translated import BEDROCK

from tollway.providers.conversation import (
    Audio,
    Conversation,
    File,
    Image,
    Message,
    Part,
    Source,
    Text,
)
from tollway.providers.dialects.dialect import Facts
from tollway.providers.errors import Untranslatable

CLAUDE = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "us.amazon.nova-2-lite-v1:0"
ASKED = Text("What?")


def shown(part: Part, model: str = NOVA) -> list[dict[str, Any]]:
    """Return the content of a turn that shows something and asks what it is."""
    said = Conversation("", "asked", (Message("user", (part, ASKED)),))
    (turn,) = msgspec.json.decode(BEDROCK.write_request(said, Facts(model)).body)["messages"]
    assert turn["content"][-1] == {"text": ASKED.text}
    return list(turn["content"][:-1])


def some(kind: str) -> Source:
    """Return some bytes of a type."""
    return Source("base64", "aGk=", kind)


@pytest.mark.parametrize(
    ("kind", "format_"),
    [("mp4", "mp4"), ("quicktime", "mov"), ("x-matroska", "mkv"), ("3gpp", "three_gp")],
)
def test_a_video_is_shown_to_who_sees_it(kind: str, format_: str) -> None:
    """It was refused, though Nova sees it. What it is called stands before it."""
    assert shown(File(some(f"video/{kind}"), "a.mp4")) == [
        {"text": "a.mp4"},
        {"video": {"format": format_, "source": {"bytes": "aGk="}}},
    ]


@pytest.mark.parametrize(
    ("source", "model"),
    [
        (some("video/mp4"), CLAUDE),
        (some("video/x-msvideo"), NOVA),
        (Source("url", "https://example.com/a.mp4", "video/mp4"), NOVA),
    ],
)
def test_a_video_that_nobody_can_see_is_refused(source: Source, model: str) -> None:
    """Claude sees none, Converse knows none of that type, and fetches nothing."""
    with pytest.raises(Untranslatable, match=r"takes no (file|video)"):
        shown(File(source), model)


@pytest.mark.parametrize(
    ("kind", "format_"), [("mpeg", "mp3"), ("x-m4a", "m4a"), ("x-wav", "wav"), ("ogg", "ogg")]
)
def test_a_sound_has_a_format_that_converse_knows(kind: str, format_: str) -> None:
    """It went there as it was called, which failed the whole call."""
    assert shown(Audio(some(f"audio/{kind}"))) == [
        {"audio": {"format": format_, "source": {"bytes": "aGk="}}}
    ]


@pytest.mark.parametrize("part", [Audio(some("audio/x-aiff")), Image(some("image/heic"))])
def test_what_converse_has_no_format_for_is_refused_by_its_type(part: Audio | Image) -> None:
    """So that its sender knows what to send instead."""
    with pytest.raises(Untranslatable, match=part.source.media_type):
        shown(part)


@pytest.mark.parametrize("kind", ["application/json", "text/x-python"])
def test_any_text_is_read_though_bedrock_has_no_such_document(kind: str) -> None:
    """It was refused; to every other target it is text."""
    assert shown(File(some(kind), "a.py"), CLAUDE) == [{"text": "a.py\n\nhi"}]
