"""A model of letters in place of llama.cpp: it checks what that would die of."""

from collections.abc import Sequence

from tollway.providers.llamacpp.frames import Sampling
from tollway.providers.llamacpp.native import Late, NativeFailed, Pick, Picked, Piece
from tollway.providers.llamacpp.policy import Rules

END = 0


class Chain:
    """A chain of no samplers."""

    held = True

    def __init__(self, native: "Alphabet") -> None:
        self.native = native

    def accept(self, token: int) -> None:
        """Nothing is penalised."""

    def free(self) -> None:
        """Count the chains that are given back."""
        self.native.chains -= 1


class Alphabet:
    """A "model" whose tokens are letters, and which always says the next letter, up to `end`."""

    context = 32
    chunk = 4
    vocabulary = 128
    width = 1
    embeds = False
    whole = True
    tails = 4
    steady = False

    def __init__(
        self,
        end: str = "z",
        *,
        slots: int = 1,
        forgets_parts: bool = True,
        begin: int | None = None,
        mixes: bool = False,
        rules: Rules | None = None,
    ):
        self.end = ord(end)
        self.slots = slots
        self.mixes = mixes
        self.rules = rules or Rules()
        self.forgets_parts = forgets_parts
        self.first = begin
        self.cells: list[list[int]] = [[] for _ in range(slots)]
        self.decoded: list[int] = []  # how many tokens each step read
        self.copied = 0
        self.chains = 0
        self.holding = ""
        self.fails = False
        self.bad = -1  # a token that no step can read
        self.outputs: list[int] = []

    def tokenize(self, text: str, *, ends: bool) -> list[int]:
        """Return a token a letter."""
        return list(text.encode())

    def begin(self) -> int | None:
        """Return the begin mark of this model."""
        return self.first

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the letter."""
        return bytes([token])

    def is_end(self, token: int) -> bool:
        """Return whether the alphabet has ended."""
        return token == END

    def decode(self, pieces: Sequence[Piece]) -> None:
        """Take tokens, checking what llama.cpp would die of."""
        if self.fails or any(self.bad in piece.tokens for piece in pieces):
            self.fails = False
            raise NativeFailed("llama_decode answered -3")
        assert len({piece.seq for piece in pieces}) == len(pieces)
        assert 0 < sum(len(piece.tokens) for piece in pieces) <= self.chunk + self.slots
        for piece in pieces:
            assert piece.tokens
            assert piece.start == len(self.cells[piece.seq])
            assert piece.start + len(piece.tokens) <= self.context
            self.cells[piece.seq] += piece.tokens
        self.decoded.append(sum(len(piece.tokens) for piece in pieces))
        self.outputs = [self.cells[piece.seq][-1] for piece in pieces]

    def keep(self, seq: int, count: int) -> int:
        """Forget from a cell on; some memories can only forget everything."""
        kept = count if self.forgets_parts or count == len(self.cells[seq]) else 0
        self.cells[seq] = self.cells[seq][:kept]
        return kept

    def copy(self, source: int, target: int, count: int) -> None:
        """Give one sequence the first cells of another."""
        assert source != target
        assert count <= len(self.cells[source])
        self.copied += 1
        self.cells[target] = self.cells[source][:count]

    def compiles(self, grammar: str) -> bool:
        """Know no grammar that has a dollar in it."""
        return "$" not in grammar

    def bears(self, grammar: str) -> bool:
        """Bear no grammar that has a hash in it."""
        return "#" not in grammar

    def chain(self, sampling: Sampling, seed: int | None, grammar: str = "") -> Chain:
        """Return a sampler."""
        self.chains += 1
        return Chain(self)

    def hold(self, chain: object, grammar: str) -> None:
        """Take note of what binds from here on."""
        self.holding = grammar

    def token_of(self, data: bytes) -> int:
        """Return the first letter."""
        return data[0]

    def sample(self, picks: Sequence[Pick]) -> Sequence[Picked | NativeFailed | Late]:
        """Return the next letter of each."""
        lasts = [self.outputs[pick.row] for pick in picks]
        return [Picked(END if last >= self.end else last + 1) for last in lasts]

    def embed(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Read the ends of texts; return all that each sequence has seen."""
        assert sum(len(piece.tokens) for piece in pieces) <= self.tails
        self.decode(pieces)
        return [bytes(self.cells[piece.seq]) for piece in pieces]
