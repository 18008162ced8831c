"""Texts that become vectors: the loop's other half, a step at a time as well.

Where a text may be read in pieces, all but its end is read without an output for each token, which
costs a fifth to a third of the time and, for a large vocabulary, more memory than the model has.
"""

from tollway.providers.llamacpp import policy
from tollway.providers.llamacpp.frames import Broken, Done, Reading, Up, Vectors
from tollway.providers.llamacpp.native import Native, NativeFailed, Piece
from tollway.providers.llamacpp.run import Run

# The end of a text that is read with its output: a token that is read alone is rounded otherwise.
TAIL = 2


class _Text:
    """A text in a sequence of its own."""

    def __init__(self, run: Run, at: int, seq: int, native: Native) -> None:
        self.run = run
        self.at = at
        self.seq = seq
        self.tokens = run.read.prompts[at]
        count = len(self.tokens)
        short = native.whole or count <= max(TAIL, native.tails // native.slots)
        self.head = 0 if short else count - TAIL  # how many are read without an output
        self.read = 0


class Texts:
    """Embeds the texts of all calls, as many at a time as there is room for."""

    def __init__(self, native: Native) -> None:
        self._native = native
        self._waiting: list[tuple[Run, int]] = []
        self._under_way: list[_Text] = []  # oldest first

    @property
    def runs(self) -> list[Run]:
        """The calls that are not done."""
        every = [*(text.run for text in self._under_way), *(run for run, _ in self._waiting)]
        return list(dict.fromkeys(every))

    def add(self, run: Run) -> None:
        """Take a call's texts."""
        self._waiting += [(run, at) for at in range(len(run.read.prompts))]

    def drop(self, run: Run) -> None:
        """Forget a call's texts, and what was read of them."""
        self._waiting = [one for one in self._waiting if one[0] is not run]
        for text in self._under_way:
            if text.run is run:
                self._native.keep(text.seq, 0)
        self._under_way = [text for text in self._under_way if text.run is not run]

    def step(self) -> list[Up]:
        """Read a piece of each text that has begun; return what that brought."""
        said: list[Up] = []
        self._begin()
        self._read(said)
        self._embed(said)
        return said

    def _begin(self) -> None:
        """Give sequences to texts in their order, as long as all fit beside one another."""
        native = self._native
        free = set(range(native.slots)) - {text.seq for text in self._under_way}
        room = native.context - sum(len(text.tokens) for text in self._under_way)
        while free and self._waiting:
            run, at = self._waiting[0]
            room -= len(run.read.prompts[at])
            if room < 0:
                return
            self._waiting.pop(0)
            run.begun.add(at)
            self._under_way.append(_Text(run, at, free.pop(), native))

    def _read(self, said: list[Up]) -> None:
        reading = {text.seq: text for text in self._under_way if text.read < text.head}
        left = [policy.Reader(seq, text.head - text.read) for seq, text in reading.items()]
        work = [
            (text, text.tokens[text.read : text.read + count])
            for seq, count in policy.plan(left, self._native.chunk)
            if (text := reading[seq])
        ]
        if not work:
            return
        try:
            self._native.decode(
                [Piece(text.seq, text.read, tokens, wanted=False) for text, tokens in work]
            )
        except NativeFailed as fault:
            self._break([text for text, _ in work], str(fault), said)
            return
        for text, tokens in work:
            text.read += len(tokens)
            used = text.run.used
            said.append(Reading(text.run.job.id, text.read, used.prompt, used.cached))

    def _embed(self, said: list[Up]) -> None:
        """Read the ends of those that are read so far, and give their vectors out."""
        ends = [text for text in self._under_way if text.read == text.head]
        if not ends:
            return
        try:
            vectors = self._native.embed(
                [Piece(text.seq, text.head, text.tokens[text.head :]) for text in ends]
            )
        except NativeFailed as fault:
            self._break(ends, str(fault), said)
            return
        for text, vector in zip(ends, vectors, strict=True):
            run = text.run
            self._native.keep(text.seq, 0)
            self._under_way.remove(text)
            run.at += 1
            said.append(Vectors(run.job.id, text.at, vector))
            if run.at == len(run.read.prompts):
                said.append(Done(run.job.id, run.used))

    def _break(self, texts: list[_Text], message: str, said: list[Up]) -> None:
        for run in dict.fromkeys(text.run for text in texts):
            self.drop(run)
            said.append(Broken(run.job.id, message))
