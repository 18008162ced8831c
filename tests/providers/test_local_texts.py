"""Texts that become vectors: in pieces where that can be, several beside one another."""

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="jinja2 comes with the `local` extra")
from alphabet import Alphabet
from gguf_files import real_model, with_layers, with_metadata
from local_models import NAME, model, serving, whole

from tollway.providers.llamacpp.engine import Engine
from tollway.providers.llamacpp.frames import Broken, Done, Prompt, Reading, Submit, Up, Vectors
from tollway.providers.llamacpp.native import Piece

MEAN, LAST = 1, 3  # llama.cpp's numbers


class Embedder(Alphabet):
    """A "model" whose vector of a text is the text."""

    embeds = True

    def __init__(self, *, slots: int = 2, whole: bool = False) -> None:
        super().__init__(slots=slots)
        self.whole = whole
        if whole:
            self.chunk = self.tails = self.context

    def decode(self, pieces: Sequence[Piece]) -> None:
        """Read beginnings, none of which has an output."""
        assert not any(piece.wanted for piece in pieces)
        super().decode(pieces)

    def embed(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Read ends; each has seen all that came before."""
        assert sum(len(piece.tokens) for piece in pieces) <= self.tails
        super().decode(pieces)
        return [bytes(self.cells[piece.seq]) for piece in pieces]


def texts(number: int, *said: str) -> Submit:
    """Return a call for embeddings."""
    return Submit(number, "embeddings", [Prompt(text=one) for one in said])


def vectors(said: list[Up], call: int) -> dict[int, bytes]:
    """Return what a call was given, by its texts' places."""
    return {up.index: up.vector for up in said if isinstance(up, Vectors) and up.id == call}


def finished(engine: Engine) -> list[Up]:
    """Return all that comes up until nothing is left to do."""
    said: list[Up] = []
    while engine.busy:
        said += engine.step()
    return said


@pytest.mark.parametrize("at_once", [False, True])
def test_every_text_gets_its_own_vector(at_once: bool) -> None:
    """Long or short, whatever stands beside it; each token is read and counted once."""
    engine = Engine(native := Embedder(slots=3, whole=at_once), None)
    long = "abcdefghijklmnopqrstuvwxyz"
    engine.submit(texts(1, "a", long, "bc"))
    engine.submit(texts(2, "defghij", long[::-1], "xyz"))
    said = finished(engine)
    assert vectors(said, 1) == {0: b"a", 1: long.encode(), 2: b"bc"}
    assert vectors(said, 2) == {0: b"defghij", 1: long[::-1].encode(), 2: b"xyz"}
    done = {up.id: up.usage.prompt for up in said if isinstance(up, Done)}
    assert done == {1: 29, 2: 36}
    assert sum(native.decoded) == 65
    assert max(native.decoded) <= native.context


def test_a_long_text_keeps_no_short_one_waiting() -> None:
    """It is read in pieces, each of which is a sign of life; short ones pass it."""
    engine = Engine(native := Embedder(), None)
    engine.submit(texts(1, "abcdefghijklmnopqrst"))
    said = engine.step()
    assert [type(up) for up in said] == [Reading]
    engine.submit(texts(2, "xyz"))
    said = finished(engine)
    order = [up.id for up in said if isinstance(up, Done)]
    assert order == [2, 1]
    assert max(native.decoded) <= native.chunk + native.slots


def test_a_call_that_is_left_gives_its_place_to_the_next() -> None:
    """Within one step, in the middle of its text; those beside it go on."""
    engine = Engine(native := Embedder(), None)
    engine.submit(texts(1, "abcdefghijklmnop"))
    engine.submit(texts(2, "qrstuvwxyz"))
    engine.submit(texts(3, "hello world"))
    engine.step()
    (gone,) = engine.cancel(1)
    assert isinstance(gone, Done)
    assert gone.cancelled
    said = finished(engine)
    assert vectors(said, 2) == {0: b"qrstuvwxyz"}
    assert vectors(said, 3) == {0: b"hello world"}
    assert native.cells == [[], []]


@pytest.mark.parametrize("letter", ["b", "z"])
def test_a_fault_ends_the_calls_of_that_step_alone(letter: str) -> None:
    """At the beginning of a text or at its end; the next call is served."""
    engine = Engine(native := Embedder(slots=1), None)
    native.bad = ord(letter)
    engine.submit(texts(1, "abcdefgz", "q"))
    engine.submit(texts(2, "cdefghi"))
    said = finished(engine)
    assert [up.id for up in said if isinstance(up, Broken)] == [1]
    assert vectors(said, 2) == {0: b"cdefghi"}


def test_a_model_that_does_not_embed_is_asked_for_no_vectors() -> None:
    """The call is refused before anything is read."""
    engine = Engine(native := Alphabet(), None)
    engine.submit(texts(1, "a"))
    finished(engine)
    assert native.decoded == []


async def embedded(
    folder: Path, pooling: int, *calls: list[str], **how: Any
) -> list[tuple[list[Sequence[float]], int]]:
    """Return what each of some calls, one after the other, got from some of the small real model.

    That is the vectors of its texts, and the tokens of all.
    """
    cut, path = folder / "cut.gguf", folder / f"{pooling}.gguf"
    with_layers(real_model(), cut, 3)
    with_metadata(cut, path, "llama.pooling_type", pooling)
    found = []
    async with serving(folder, model(path, **how)) as local:
        for said in calls:
            request = json.dumps({"model": NAME, "input": said}).encode()
            answer = await whole(local, request, "embeddings")
            got: list[Sequence[float]] = [array("d", one["embedding"]) for one in answer["data"]]
            found.append((got, answer["usage"]["prompt_tokens"]))
    return found


def similar(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of two vectors of length one."""
    return sum(x * y for x, y in zip(one, other, strict=True))


async def test_a_text_is_the_same_alone_and_beside_others(tmp_path: Path) -> None:
    """Whether it is read in one piece or in many: what differs is rounding."""
    long = "The quick brown fox jumps over the lazy dog, and the hens laugh. " * 20
    said = [long, "a happy dog", long[:300], "A treaty was signed in Paris."]
    ((together, tokens),) = await embedded(tmp_path, LAST, said, slots=4)
    alone = await embedded(tmp_path, LAST, *([one] for one in said), slots=1)
    assert tokens == sum(count for _, count in alone)
    for one, ((other,), _) in zip(together, alone, strict=True):
        assert similar(one, other) > 0.995
    assert similar(together[1], together[3]) < 0.99


async def test_a_text_may_be_as_long_as_the_context(tmp_path: Path) -> None:
    """Where the last token has seen all: longer than what one step could read."""
    said = ["one two three four five six seven eight nine ten " * 280]
    (((vector,), tokens),) = await embedded(tmp_path, LAST, said, context=4096)
    assert tokens > 2048
    assert similar(vector, vector) == pytest.approx(1, abs=1e-5)
