"""What the generating loop needs of llama.cpp, as types; and what goes wrong there."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from tollway.providers.llamacpp.frames import Logprob, Sampling
from tollway.providers.llamacpp.policy import Rules


class NativeFailed(Exception):
    """llama.cpp refused a step that should have been possible."""


class GrammarFailed(NativeFailed):
    """A grammar allows no token, or none in time: the fault of whoever wrote it."""


class GrammarTooSlow(GrammarFailed):
    """A grammar took too long for a token: it would again."""


class GrammarLost(NativeFailed):
    """The process of a grammar is gone, or there was none: nobody's fault."""


class Piece(msgspec.Struct, frozen=True):
    """Tokens to read into a sequence from a cell on; `wanted` if the last one's output is."""

    seq: int
    start: int
    tokens: Sequence[int]
    wanted: bool = True


class Chain(Protocol):
    """A chain of samplers for one choice."""

    held: bool  # whether the grammar, if there is one, binds already

    def accept(self, token: int) -> None:
        """Take note of a token of the prompt, for the penalties."""
        ...

    def free(self) -> None:
        """Give its memory back; it may not be used again."""
        ...


class Pick(msgspec.Struct, frozen=True):
    """A token to choose: from the output of the last step's piece number `row`."""

    row: int
    chain: Chain
    top: int | None = None  # how many alternatives to tell; None: no probabilities at all


class Picked(msgspec.Struct, frozen=True):
    """A chosen token."""

    token: int
    logprob: Logprob | None = None


class Late(Protocol):
    """A token that is being chosen still, in another process."""

    def get(self, wait_s: float) -> "Picked | NativeFailed | None":
        """Return it or why there is none; None if it is not known within so many seconds."""
        ...


class Native(Protocol):
    """What the loop needs of llama.cpp."""

    context: int  # tokens, of each sequence; where it embeds, of all texts at once
    slots: int  # sequences
    chunk: int  # the most tokens that one step may read
    vocabulary: int
    width: int  # of an embedding
    embeds: bool
    whole: bool  # a text that is to be embedded must be read in one step
    tails: int  # tokens that one step may read for embeddings
    mixes: bool  # answers and prompts go into one decode
    steady: bool  # how a prompt is cut changes no bit of the output
    rules: Rules

    def tokenize(self, text: str, *, ends: bool) -> list[int]:
        """Return the tokens of a text; with the model's own begin and end marks if `ends`."""
        ...

    def begin(self) -> int | None:
        """Return the token that must begin every prompt, if there is one."""
        ...

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes that a token stands for; none for control tokens but if `special`."""
        ...

    def is_end(self, token: int) -> bool:
        """Return whether the token ends an answer."""
        ...

    def decode(self, pieces: Sequence[Piece]) -> None:
        """Read pieces of several sequences at once.

        Raises:
            NativeFailed: llama.cpp said no.
        """
        ...

    def keep(self, seq: int, count: int) -> int:
        """Forget all but a sequence's first cells; return how many could be kept."""
        ...

    def copy(self, source: int, target: int, count: int) -> None:
        """Give one sequence the first cells of another, in place of all it had."""
        ...

    def compiles(self, grammar: str) -> bool:
        """Return whether llama.cpp understands a grammar."""
        ...

    def bears(self, grammar: str) -> bool:
        """Return whether llama.cpp lives to tell how an answer by a grammar begins, and soon.

        That takes seconds where it does not: for grammars that callers wrote.

        Raises:
            NativeFailed: There is no such process.
        """
        ...

    def chain(self, sampling: Sampling, seed: int | None, grammar: str = "") -> Chain:
        """Return a fresh chain of samplers.

        Raises:
            NativeFailed: There is none.
        """
        ...

    def hold(self, chain: Chain, grammar: str) -> None:
        """Hold a chain that has none to a grammar, from its next token on.

        Raises:
            NativeFailed: There is no process for it.
        """
        ...

    def token_of(self, data: bytes) -> int:
        """Return the token that says as much of the beginning of some bytes as any does.

        Raises:
            NativeFailed: None does.
        """
        ...

    def sample(self, picks: Sequence[Pick]) -> Sequence[Picked | NativeFailed | Late]:
        """Return a token for each, chosen from the last step's output; why not, where none can be.

        Those that a grammar is asked about may come later.

        The others have had theirs then: a chain that is asked twice has taken the first one.

        Raises:
            NativeFailed: There is no output, and no chain was asked.
        """
        ...

    def embed(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Read the ends of texts, each in a sequence of its own; return the texts' embeddings.

        Each is little-endian 32-bit floats of length one.

        Raises:
            NativeFailed: llama.cpp said no.
        """
        ...
