"""The generating loop: one call at a time, one engine step after the other.

It knows no process and no library: what it needs of llama.cpp is `Native`, which `child.py`
gives. Nothing reaches `Native` unchecked, for most misuses of llama.cpp end the process.
"""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from tollway.providers.llamacpp.frames import (
    Broken,
    ChoiceEnded,
    Count,
    Counted,
    Done,
    Prompt,
    Reading,
    Reason,
    Refused,
    Sampling,
    Submit,
    Token,
    Up,
    Used,
    Vectors,
)
from tollway.providers.llamacpp.template import ChatTemplate, TemplateRefused
from tollway.providers.llamacpp.text import TextOut


class NativeFailed(Exception):
    """llama.cpp refused a step that should have been possible."""


class Chain(Protocol):
    """A chain of samplers for one choice."""

    def sample(self) -> int:
        """Return the next token, chosen from the last step's output."""
        ...

    def accept(self, token: int) -> None:
        """Take note of a token of the prompt, for the penalties."""
        ...

    def free(self) -> None:
        """Give its memory back; it may not be used again."""
        ...


class Native(Protocol):
    """What the loop needs of llama.cpp."""

    context: int  # tokens
    chunk: int  # the most tokens that one step may read
    vocabulary: int
    width: int  # of an embedding
    embeds: bool

    def tokenize(self, text: str, *, ends: bool) -> list[int]:
        """Return the tokens of a text; with the model's own begin and end marks if `ends`."""
        ...

    def begin(self) -> int | None:
        """Return the token that must begin every prompt, if there is one."""
        ...

    def piece(self, token: int) -> bytes:
        """Return the bytes that a token stands for; none for control tokens."""
        ...

    def is_end(self, token: int) -> bool:
        """Return whether the token ends an answer."""
        ...

    def decode(self, tokens: Sequence[int], start: int) -> None:
        """Read tokens into the cells from `start` on; the last one's output can be sampled.

        Raises:
            NativeFailed: llama.cpp said no.
        """
        ...

    def keep(self, count: int) -> int:
        """Forget all but the first cells; return how many could be kept: `count` or none."""
        ...

    def chain(self, sampling: Sampling, seed: int | None) -> Chain:
        """Return a fresh chain of samplers."""
        ...

    def embed(self, tokens: Sequence[int]) -> bytes:
        """Return the embedding of one text: little-endian 32-bit floats, length one.

        Raises:
            NativeFailed: llama.cpp said no.
        """
        ...


class Refusal(Exception):
    """The call asks for what this model cannot do."""

    def __init__(self, message: str, param: str, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class _Choice:
    """One choice being generated."""

    def __init__(self, prompt: list[int], chain: Chain, stop: list[str], limit: int) -> None:
        self.prompt = prompt
        self.chain = chain
        self.limit = limit
        self.text = TextOut(stop)
        self.last: int | None = None  # sampled, not yet decoded; None while the prompt is read
        self.made = 0


class _Run:
    """The call that is being worked on."""

    def __init__(self, job: Submit, prompts: list[list[int]]) -> None:
        self.job = job
        self.prompts = prompts
        self.at = 0  # the choice, or the embedding
        self.choice: _Choice | None = None
        self.cached = 0
        self.completion = 0

    @property
    def used(self) -> Used:
        begun = self.prompts[: self.at // self.job.n + 1]
        return Used(sum(map(len, begun)), self.cached, self.completion)


class Engine:
    """Works off submitted calls in their order, a step at a time."""

    def __init__(self, native: Native, template: ChatTemplate | None) -> None:
        self._native = native
        self._template = template
        self._waiting: deque[Submit] = deque()
        self._run: _Run | None = None
        self._cells: list[int] = []  # the tokens in the model's memory

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._run or self._waiting)

    def submit(self, job: Submit) -> None:
        """Put a call at the end of the line."""
        self._waiting.append(job)

    def count(self, asked: Count) -> Up:
        """Return how many tokens the prompts have, or why that can't be said."""
        try:
            prompts = [self._tokens(asked.kind, prompt) for prompt in asked.prompts]
        except Refusal as no:
            return Refused(asked.id, no.message, no.param, no.code)
        return Counted(asked.id, sum(map(len, prompts)))

    def cancel(self, call: int) -> list[Up]:
        """End a call at once, running or waiting; return what to tell its caller."""
        run = self._run
        if run and run.job.id == call:
            self._end_choice(run)
            self._run = None
            return [Done(call, run.used, cancelled=True)]
        for job in self._waiting:
            if job.id == call:
                self._waiting.remove(job)
                return [Done(call, Used(), cancelled=True)]
        return []

    def step(self) -> list[Up]:
        """Do one step of the call whose turn it is; return what it brought."""
        if self._run is None:
            if not self._waiting:
                return []
            job = self._waiting.popleft()
            try:
                self._run = self._begin(job)
            except Refusal as no:
                return [Refused(job.id, no.message, no.param, no.code)]
        run = self._run
        try:
            return self._embed(run) if run.job.kind == "embeddings" else self._generate(run)
        except NativeFailed as fault:
            self._end_choice(run)
            self._run = None
            self._cells = self._cells[: self._native.keep(0)]
            return [Broken(run.job.id, str(fault))]

    # Before the first step: everything that can be refused is refused here.

    def _begin(self, job: Submit) -> _Run:
        if (job.kind == "embeddings") != self._native.embeds:
            raise Refusal(
                "This model makes embeddings and answers nothing else"
                if self._native.embeds
                else "This model has no pooling type, so it is not made for embeddings",
                "model",
            )
        prompts = [self._tokens(job.kind, prompt) for prompt in job.prompts]
        param = _param(job.kind)
        room = self._native.chunk if self._native.embeds else self._native.context - 1
        for tokens in prompts:
            if not tokens:
                raise Refusal("There is no token to read in it", param)
            if len(tokens) > room:
                raise Refusal(
                    f"The prompt has {len(tokens)} tokens and the model's context holds"
                    f" {self._native.context}"
                    if not self._native.embeds
                    else f"The text has {len(tokens)} tokens and the model takes {room}",
                    param,
                    "context_length_exceeded",
                )
        beyond = [token for token in job.sampling.bias if token >= self._native.vocabulary]
        if beyond:
            raise Refusal(
                f"There is no token {beyond[0]}; the model has {self._native.vocabulary}",
                "logit_bias",
            )
        if job.dimensions not in {None, self._native.width}:
            raise Refusal(f"The model's embeddings have {self._native.width} numbers", "dimensions")
        return _Run(job, prompts)

    def _tokens(self, kind: str, prompt: Prompt) -> list[int]:
        if prompt.tokens is not None:
            for token in prompt.tokens:
                if not 0 <= token < self._native.vocabulary:
                    raise Refusal(
                        f"There is no token {token}; the model has {self._native.vocabulary}",
                        _param(kind),
                    )
            return prompt.tokens
        if prompt.messages is None:
            text = prompt.text or ""
        elif self._template is None:
            raise Refusal("The model has no chat template; ask for a completion instead", "model")
        else:
            try:
                text = self._template.render(prompt.messages)
            except TemplateRefused as no:
                raise Refusal(str(no), "messages") from no
        if kind == "embeddings":
            return self._native.tokenize(text, ends=True)
        tokens = self._native.tokenize(text, ends=False)
        first = self._native.begin()
        # Many templates write the begin mark themselves; twice, it makes answers worse.
        return tokens if first is None or tokens[:1] == [first] else [first, *tokens]

    # One step.

    def _generate(self, run: _Run) -> list[Up]:
        choice = run.choice or self._next_choice(run)
        if choice.last is None:
            left = choice.prompt[len(self._cells) :]
            self._decode(left[: self._native.chunk])
            if len(left) > self._native.chunk:
                return [self._reading(run, choice)]
            begun: list[Up] = [self._reading(run, choice)]
        else:
            self._decode([choice.last])
            begun = []
        return begun + self._take(run, choice)

    def _decode(self, tokens: list[int]) -> None:
        self._native.decode(tokens, len(self._cells))
        self._cells += tokens

    def _reading(self, run: _Run, choice: _Choice) -> Reading:
        used = run.used
        return Reading(run.job.id, len(self._cells), used.prompt, used.cached)

    def _next_choice(self, run: _Run) -> _Choice:
        prompt = run.prompts[run.at // run.job.n]
        # One token at least must be read again: its output is where the answer begins.
        shared = self._native.keep(min(_common(self._cells, prompt), len(prompt) - 1))
        self._cells = self._cells[:shared]
        if run.at % run.job.n == 0:  # further choices of a prompt cost no input at all
            run.cached += shared
        room = self._native.context - len(prompt)
        limit = room if run.job.max_tokens is None else min(room, run.job.max_tokens)
        sampling = run.job.sampling
        seed = None if sampling.seed is None else sampling.seed + run.at % run.job.n
        chain = self._native.chain(sampling, seed)
        for token in prompt[-sampling.repeat_last :] if sampling.repeat_last else ():
            chain.accept(token)
        run.choice = _Choice(prompt, chain, run.job.stop, limit)
        return run.choice

    def _take(self, run: _Run, choice: _Choice) -> list[Up]:
        token = choice.chain.sample()
        if self._native.is_end(token):
            return self._end(run, choice, "stop")
        choice.last = token
        choice.made += 1
        run.completion += 1
        said: list[Up] = [Token(run.job.id, run.at, choice.text.feed(self._native.piece(token)))]
        if choice.text.stopped:
            return said + self._end(run, choice, "stop")
        if choice.made >= choice.limit:
            return said + self._end(run, choice, "length")
        return said

    def _end(self, run: _Run, choice: _Choice, reason: Reason) -> list[Up]:
        said: list[Up] = [ChoiceEnded(run.job.id, run.at, reason, choice.text.finish())]
        self._end_choice(run)
        run.at += 1
        if run.at == len(run.prompts) * run.job.n:
            self._run = None
            said.append(Done(run.job.id, run.used))
        return said

    def _end_choice(self, run: _Run) -> None:
        if run.choice:
            run.choice.chain.free()
        run.choice = None

    def _embed(self, run: _Run) -> list[Up]:
        vector = self._native.embed(run.prompts[run.at])
        said: list[Up] = [Vectors(run.job.id, run.at, vector)]
        run.at += 1
        if run.at == len(run.prompts):
            self._run = None
            said.append(Done(run.job.id, run.used))
        return said


def _common(one: list[int], other: list[int]) -> int:
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))


def _param(kind: str) -> str:
    return {"chat": "messages", "completions": "prompt"}.get(kind, "input")
