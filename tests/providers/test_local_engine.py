"""The generating loop where llama.cpp says no, or cannot do what most models can."""

from collections.abc import Sequence

import pytest

pytest.importorskip("jinja2", reason="jinja2 comes with the `local` extra")
from tollway.providers.llamacpp.engine import Engine, NativeFailed
from tollway.providers.llamacpp.frames import (
    Broken,
    Cancel,
    ChoiceEnded,
    Count,
    Counted,
    Done,
    Message,
    Prompt,
    Reading,
    Refused,
    Sampling,
    Submit,
    Token,
    Up,
    Used,
)

END = 0


class Alphabet:
    """A "model" whose tokens are letters, and which always says the next letter, up to `end`."""

    context = 32
    chunk = 4
    vocabulary = 128
    width = 1
    embeds = False

    def __init__(self, end: str = "z", *, forgets_parts: bool = True, begin: int | None = None):
        self.end = ord(end)
        self.forgets_parts = forgets_parts
        self.first = begin
        self.cells: list[int] = []
        self.decoded: list[int] = []  # how many tokens each step read
        self.chains = 0
        self.fails = False

    def tokenize(self, text: str, *, ends: bool) -> list[int]:
        """Return a token a letter."""
        return list(text.encode())

    def begin(self) -> int | None:
        """Return the begin mark of this model."""
        return self.first

    def piece(self, token: int) -> bytes:
        """Return the letter."""
        return bytes([token])

    def is_end(self, token: int) -> bool:
        """Return whether the alphabet has ended."""
        return token == END

    def decode(self, tokens: Sequence[int], start: int) -> None:
        """Take tokens, checking what llama.cpp would die of."""
        if self.fails:
            self.fails = False
            raise NativeFailed("llama_decode answered -3")
        assert start == len(self.cells)
        assert 0 < len(tokens) <= self.chunk
        assert start + len(tokens) <= self.context
        self.cells += tokens
        self.decoded.append(len(tokens))

    def keep(self, count: int) -> int:
        """Forget from a cell on; some memories can only forget everything."""
        kept = count if self.forgets_parts or count == len(self.cells) else 0
        self.cells = self.cells[:kept]
        return kept

    def chain(self, sampling: Sampling, seed: int | None) -> "Alphabet":
        """Return the sampler: this model itself."""
        self.chains += 1
        return self

    def sample(self) -> int:
        """Return the next letter."""
        last = self.cells[-1]
        return END if last >= self.end else last + 1

    def accept(self, token: int) -> None:
        """Nothing is penalised."""

    def free(self) -> None:
        """Count the chains that are given back."""
        self.chains -= 1

    def embed(self, tokens: Sequence[int]) -> bytes:
        """Embed nothing."""
        raise NativeFailed("no embeddings here")


def job(text: str, number: int = 1, **fields: object) -> Submit:
    """Return a completion call."""
    return Submit(number, "completions", [Prompt(text=text)], **fields)  # type: ignore[arg-type]


def run(engine: Engine) -> list[Up]:
    """Return all that comes up until nothing is left to do."""
    said: list[Up] = []
    while engine.busy:
        said += engine.step()
    return said


def text(said: list[Up]) -> str:
    """Return the text of an answer."""
    return "".join(up.text for up in said if isinstance(up, Token | ChoiceEnded))


def test_a_prompt_is_read_in_pieces_and_answered() -> None:
    """Each step says that it was done, so a cancel and the watchdog wait for one only."""
    native = Alphabet("h")
    said = run(Engine(native, None))
    assert said == []
    engine = Engine(native, None)
    engine.submit(job("zzzzzzzzza"))
    said = run(engine)
    assert native.decoded[:3] == [4, 4, 2]
    assert [up.done for up in said if isinstance(up, Reading)] == [4, 8, 10]
    assert text(said) == "bcdefgh"
    assert said[-1] == Done(1, Used(prompt=10, cached=0, completion=7))
    assert native.chains == 0


def test_a_kept_prefix_is_read_only_once() -> None:
    """All but the last token of a prompt may come from the call before."""
    native = Alphabet("h")
    engine = Engine(native, None)
    engine.submit(job("xyzabcd"))
    run(engine)
    native.decoded.clear()
    engine.submit(job("xyzabcd", 2, max_tokens=1))
    said = run(engine)
    assert native.decoded == [1]
    assert said[-1] == Done(2, Used(prompt=7, cached=6, completion=1))
    assert text(said) == "e"


def test_a_memory_that_cannot_forget_parts_is_read_afresh() -> None:
    """Recurrent and sliding-window models: the same answer, only slower."""
    native = Alphabet("h", forgets_parts=False)
    engine = Engine(native, None)
    for number in (1, 2):
        engine.submit(job("xyzabcd", number))
        said = run(engine)
        assert text(said) == "efgh"
        assert said[-1] == Done(number, Used(prompt=7, cached=0, completion=4))


def test_a_step_that_fails_ends_its_call_alone() -> None:
    """And nothing of it stays in the memory that the next call shares."""
    native = Alphabet("h")
    engine = Engine(native, None)
    engine.submit(job("abc"))
    engine.submit(job("abc", 2))
    native.fails = True
    said = run(engine)
    assert said[0] == Broken(1, "llama_decode answered -3")
    assert text(said) == "defgh"
    assert said[-1] == Done(2, Used(prompt=3, cached=0, completion=5))
    assert native.chains == 0


def test_a_cancelled_call_gives_back_what_it_had() -> None:
    """Running or waiting; an unknown one is no fault."""
    native = Alphabet("z")
    engine = Engine(native, None)
    engine.submit(job("a"))
    engine.submit(job("b", 2))
    engine.step()
    assert engine.cancel(2) == [Done(2, Used(), cancelled=True)]
    assert engine.cancel(1) == [Done(1, Used(prompt=1, completion=1), cancelled=True)]
    assert engine.cancel(Cancel(3).id) == []
    assert not engine.busy
    assert native.chains == 0


def test_the_begin_mark_stands_once() -> None:
    """Whether or not the text already has it."""
    engine = Engine(Alphabet(begin=ord("^")), None)
    for asked in ("abc", "^abc"):
        count = Count(1, "completions", [Prompt(text=asked)])
        assert engine.count(count) == Counted(1, 4)


def test_without_a_chat_template_chat_is_refused() -> None:
    """With words that say what works instead."""
    engine = Engine(Alphabet(), None)
    engine.submit(Submit(1, "chat", [Prompt(messages=[Message("user", "hi")])]))
    (refused,) = run(engine)
    assert isinstance(refused, Refused)
    assert "no chat template" in refused.message
    assert isinstance(engine.count(Count(2, "chat", [Prompt(messages=[])])), Refused)


@pytest.mark.parametrize("length", [31, 32])
def test_a_prompt_may_fill_the_context_but_for_one_token(length: int) -> None:
    """The last cell is for an answer; beyond that is a refusal with both numbers."""
    engine = Engine(Alphabet(), None)
    engine.submit(job("a" * length, max_tokens=5))
    said = run(engine)
    if length == 31:
        assert said[-1] == Done(1, Used(prompt=31, completion=1))
        assert [up.reason for up in said if isinstance(up, ChoiceEnded)] == ["length"]
    else:
        assert isinstance(said[0], Refused)
        assert said[0].code == "context_length_exceeded"
        assert "32 tokens and the model's context holds 32" in said[0].message
