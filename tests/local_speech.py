"""What a local model's text turned out to be, for tests of the families' ways of speaking."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tollway.providers.llamacpp.frames import Tool
from tollway.providers.llamacpp.manner import Manner
from tollway.providers.llamacpp.speech import Said


def heard(
    template: str, pieces: Iterable[str], *, tools: Sequence[Tool], thinks: bool = False
) -> Said:
    """Return all that an answer turned out to be, of a model with such a template."""
    speech = Manner(template).speech(list(tools), thinks=thinks)
    said = Said()
    for piece in pieces:
        said = said.then(speech.feed(piece))
    return said.then(speech.finish())


def spelled(said: Said) -> list[tuple[str, str]]:
    """Return the calls, their arguments as they were written."""
    found: list[list[str]] = []
    for piece in said.calls:
        if piece.name:
            assert piece.call_id
            assert piece.index == len(found)
            found.append([piece.name, ""])
        found[piece.index][1] += piece.arguments
    return [(name, text) for name, text in found]


def calls(said: Said) -> list[tuple[str, Any]]:
    """Return the calls, their arguments read."""
    return [(name, json.loads(text)) for name, text in spelled(said)]
