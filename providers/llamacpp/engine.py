"""The generating loop: all calls at once, one engine step after the other.

It knows no process and no library: what it needs of llama.cpp is `Native`, and what it does next
is `policy.py`'s to say. BATCHING.md tells what is promised.
"""

import time
from collections.abc import Callable
from operator import attrgetter

import msgspec

from tollway.providers.llamacpp import policy
from tollway.providers.llamacpp.frames import (
    Broken,
    ChoiceEnded,
    Count,
    Counted,
    Done,
    Logprob,
    Reading,
    Reason,
    Refused,
    Submit,
    Token,
    Up,
    Used,
)
from tollway.providers.llamacpp.jobs import Arrived, Jobs, Read, Refusal, bound_param, param_of
from tollway.providers.llamacpp.native import (
    Chain,
    GrammarLost,
    GrammarTooSlow,
    Late,
    Native,
    NativeFailed,
    Pick,
    Picked,
    Piece,
)
from tollway.providers.llamacpp.onset import Onset
from tollway.providers.llamacpp.run import Run
from tollway.providers.llamacpp.speech import Hearer, Said
from tollway.providers.llamacpp.template import ChatTemplate
from tollway.providers.llamacpp.text import Beside, TextOut
from tollway.providers.llamacpp.texts import Texts

# Where all wait for tokens of other processes: so long, before calls that came are looked at.
LATE_S = 0.05
# And for one of several so long, in turn: one may take seconds while another is there at once.
LATE_TURN_S = 0.005
# Each further choice of a call stands so many places behind the one before it.
CHOICE_APART = 8


class _Choice:
    """One choice of a call: it waits for a sequence, reads its prompt, then is generated."""

    def __init__(self, run: Run, index: int) -> None:
        self.run = run
        self.index = index
        self.turn = run.number + CHOICE_APART * (index % run.job.n)
        self.prompt = run.read.prompts[index // run.job.n]
        self.text = TextOut(run.job.stop)
        self.likely = Beside[Logprob](self.text)
        self.speech: Hearer | None = None
        self.onset: Onset | None = None  # until a call has begun that a grammar will bind
        self.chain: Chain | None = None
        self.seq = -1
        self.limit = 0
        self.last: int | None = None  # sampled, not yet decoded; None while the prompt is read
        self.late: Late | None = None  # the next token, while another process chooses it
        self.made = 0

    @property
    def reads(self) -> bool:
        """Whether its prompt is being read."""
        return self.last is None and self.late is None

    @property
    def grammar(self) -> str:
        """What it is held to, if anything: a call has its own grammar, once it has begun."""
        read = self.run.read
        return read.calls if read.calls and self.onset is None else read.grammar


class _Seq:
    """A sequence of the model's memory."""

    def __init__(self) -> None:
        self.cells: list[int] = []
        self.choice: _Choice | None = None
        self.used = 0
        self.owner = ""  # of the call whose tokens it holds


class Engine:
    """Works on submitted calls, a step at a time, each step for as many as there are slots."""

    def __init__(
        self,
        native: Native,
        template: ChatTemplate | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._native = native
        self._clock = clock
        self._jobs = Jobs(native, template)
        self._new: list[Arrived] = []
        self._texts = Texts(native)
        self._waiting: list[_Choice] = []
        self._seqs = [_Seq() for _ in range(native.slots)]
        self._count = 0
        self._token_s = 0.0  # of late, to read one
        self._marks: dict[tuple[str, ...], frozenset[int]] = {}

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(
            self._new or self._texts.runs or self._waiting or any(seq.choice for seq in self._seqs)
        )

    def submit(self, job: Submit) -> None:
        """Read a call and take it; the next step begins it."""
        self.take(self.read(job))

    def read(self, job: Submit) -> Arrived:
        """Return a call with what it comes to.

        Another thread may read while a step runs, as it may count: a text of megabytes is cut into
        tokens for seconds, in which no other answer should stand still.
        """
        try:
            return Arrived(job, self._jobs.read(job))
        except Refusal as no:
            return Arrived(job, Refused(job.id, no.message, no.param, no.code))
        except GrammarLost as fault:
            return Arrived(job, Broken(job.id, str(fault)))
        except NativeFailed as fault:
            return Arrived(job, Refused(job.id, str(fault), param_of(job.kind)))

    def doubts(self, job: Submit) -> bool:
        """Return whether a call should be tried out before it is read: see `Jobs.doubts`."""
        return self._jobs.doubts(job)

    def try_out(self, job: Submit) -> None:
        """Have a call ready to be read soon; for a thread in which nobody else waits."""
        self._jobs.try_out(job)

    def take(self, arrived: Arrived) -> None:
        """Take a call that has been read; the next step begins it."""
        self._new.append(arrived)

    def count(self, asked: Count) -> Up:
        """Return how many tokens the prompts have, or why that can't be said.

        Another thread may ask while a step runs: neither template nor vocabulary ever change.
        """
        try:
            prompts = [
                self._jobs.tokens(asked.kind, one, private=asked.private) for one in asked.prompts
            ]
        except Refusal as no:
            return Refused(asked.id, no.message, no.param, no.code)
        except NativeFailed as fault:
            return Refused(asked.id, str(fault), param_of(asked.kind))
        return Counted(asked.id, sum(map(len, prompts)), prompts if asked.show else [])

    def cancel(self, call: int) -> list[Up]:
        """End a call at once, running or waiting; return what to tell its caller."""
        for arrived in self._new:
            if arrived.job.id == call:
                self._new.remove(arrived)
                return [Done(call, Used(), cancelled=True)]
        runs = [*self._texts.runs, *(choice.run for choice in self._all_choices())]
        run = next((run for run in runs if run.job.id == call), None)
        if run is None:
            return []
        self._drop(run)
        return [Done(call, run.used, cancelled=True)]

    def step(self) -> list[Up]:
        """Do one step of all calls; return what it brought."""
        said: list[Up] = []
        for arrived in self._new:
            self._begin(arrived, said)
        self._new.clear()
        if self._native.embeds:
            return said + self._texts.step()
        self._place_waiting(said)
        self._take_late(said)
        under_way = [seq.choice for seq in self._seqs if seq.choice and not seq.choice.late]
        answers = [choice for choice in under_way if choice.last is not None]
        pieces = [self._next_token(choice) for choice in answers]
        readers = self._readings(len(answers))
        if self._native.mixes:
            self._decode([*zip(answers, pieces, strict=True), *readers], said)
        else:
            if answers:
                self._decode(list(zip(answers, pieces, strict=True)), said)
            for choice, piece in readers:
                if choice.seq >= 0:  # its call may have ended in this very step
                    self._timed_read(choice, piece, said)
        return said

    # Before the first step: everything that can be refused is refused by now.

    def _begin(self, arrived: Arrived, said: list[Up]) -> None:
        job, read = arrived.job, arrived.read
        if not isinstance(read, Read):
            said.append(read)
            return
        run = Run(job, read, self._count)
        self._count += 1
        if job.kind == "embeddings":
            self._texts.add(run)
        else:
            self._waiting += [_Choice(run, index) for index in range(run.choices)]

    # Who gets a sequence.

    def _place_waiting(self, said: list[Up]) -> None:
        """Give sequences to those who wait, in their turn; one may wait for a prefix meanwhile."""
        if not self._waiting:
            return
        native = self._native
        least = policy.copy_least(native.rules.copy_s, self._token_s, native.context)
        rules = msgspec.structs.replace(native.rules, copy_least=least)
        self._waiting.sort(key=attrgetter("turn", "index"))
        for choice in tuple(self._waiting):
            found = policy.place(choice.prompt, self._facts(), rules, choice.run.owner)
            if found is None:
                return
            if isinstance(found, policy.Place):
                self._waiting.remove(choice)
                try:
                    self._place(choice, found)
                except NativeFailed as fault:
                    self._break(choice.run, str(fault), said)

    def _facts(self) -> list[policy.Seq]:
        return [
            policy.Seq(
                seq.cells,
                seq.choice is not None,
                seq.choice.prompt if seq.choice and seq.choice.reads else None,
                seq.used,
                seq.owner,
            )
            for seq in self._seqs
        ]

    def _place(self, choice: _Choice, found: policy.Place) -> None:
        seq, run = self._seqs[found.seq], choice.run
        if found.copy_from is None:
            kept = self._native.keep(found.seq, found.keep)
            seq.cells = seq.cells[:kept]
        else:
            self._native.copy(found.copy_from, found.seq, found.keep)
            kept, seq.cells = found.keep, self._seqs[found.copy_from].cells[: found.keep]
        seq.owner = run.owner
        prompt_at = choice.index // run.job.n
        if prompt_at not in run.begun:  # further choices of a prompt cost no input at all
            run.begun.add(prompt_at)
            run.cached += kept
        room = self._native.context - len(choice.prompt)
        limit = run.job.max_tokens
        choice.limit = room if limit is None else min(room, limit)
        sampling = run.job.sampling.within(self._native.context)
        seed = None if sampling.seed is None else sampling.seed + choice.index % run.job.n
        choice.chain = self._native.chain(sampling, seed, run.read.grammar)
        choice.chain.held = not run.read.thinks
        back = sampling.looks_back
        for token in choice.prompt[-back:] if back else ():
            choice.chain.accept(token)
        if run.job.kind == "chat":
            tools = run.job.prompts[prompt_at].tools
            manner = self._jobs.manner
            forced = bool((shape := run.job.shape) and shape.forces_calls)
            choice.speech = manner.speech(tools, thinks=run.read.thinks, forced=forced)
            if run.read.calls:
                speech = manner.speech(tools, thinks=run.read.thinks)
                choice.onset = Onset(speech, manner.style.begin.strip())
        choice.seq, seq.choice = found.seq, choice

    # One step.

    def _next_token(self, choice: _Choice) -> Piece:
        last = [] if choice.last is None else [choice.last]
        return Piece(choice.seq, len(self._seqs[choice.seq].cells), last)

    def _readings(self, answers: int) -> list[tuple[_Choice, Piece]]:
        reading = [seq.choice for seq in self._seqs if seq.choice and seq.choice.reads]
        if not reading:
            return []
        reading.sort(key=attrgetter("turn", "index"))
        left = [
            policy.Reader(one.seq, len(one.prompt) - len(self._seqs[one.seq].cells))
            for one in reading
        ]
        most = self._native.chunk
        if self._native.steady:
            most = policy.budget(answers, most, self._token_s)
        if self._native.mixes:
            most = min(most, self._native.chunk - answers)
        found: list[tuple[_Choice, Piece]] = []
        by_seq = {one.seq: one for one in reading}
        for seq, count in policy.plan(left, most, whole=self._native.steady):
            choice, start = by_seq[seq], len(self._seqs[seq].cells)
            tokens = choice.prompt[start : start + count]
            wanted = start + count == len(choice.prompt)
            found.append((choice, Piece(seq, start, tokens, wanted)))
        return found

    def _timed_read(self, choice: _Choice, piece: Piece, said: list[Up]) -> None:
        began = self._clock()
        self._decode([(choice, piece)], said)
        if len(piece.tokens) >= policy.PIECE_LEAST:
            took = (self._clock() - began) / len(piece.tokens)
            self._token_s = took if not self._token_s else 0.75 * self._token_s + 0.25 * took

    def _decode(self, work: list[tuple[_Choice, Piece]], said: list[Up]) -> None:
        """Decode pieces at once; where that fails each alone, so that a fault ends one call."""
        if not work:
            return
        try:
            self._native.decode([piece for _, piece in work])
            picks = [
                Pick(at, choice.chain, choice.run.job.logprobs)
                for at, (choice, piece) in enumerate(work)
                if piece.wanted and choice.chain
            ]
            found = self._native.sample(picks)
            picked = {pick.row: one for pick, one in zip(picks, found, strict=True)}
        except NativeFailed as fault:
            if len(work) == 1:
                self._break(work[0][0].run, str(fault), said)
                return
            for choice, piece in work:
                if choice.seq >= 0:
                    # What the failed step left of this piece must not be read twice.
                    kept = self._native.keep(choice.seq, piece.start)
                    if kept == piece.start:
                        self._decode([(choice, piece)], said)
                    else:
                        self._break(choice.run, str(fault), said)
            return
        for at, (choice, piece) in enumerate(work):
            if choice.seq < 0:  # a sibling ended the call
                continue
            self._seqs[choice.seq].cells += piece.tokens
            if choice.last is None:
                said.append(self._reading(choice))
            one = picked.get(at)
            if isinstance(one, NativeFailed | Picked):
                self._take_or_break(choice, one, said)
            else:
                choice.late = one

    def _take_late(self, said: list[Up]) -> None:
        """Take the tokens that have come; where nothing else is to do, wait a little for one."""
        under_way = [seq.choice for seq in self._seqs if seq.choice]
        wait_s = LATE_S if len(under_way) == 1 else LATE_TURN_S
        if not all(one.late for one in under_way):
            wait_s = 0.0
        for choice in under_way:
            if choice.late and choice.seq >= 0 and (found := choice.late.get(wait_s)):
                choice.late, wait_s = None, 0.0
                self._take_or_break(choice, found, said)

    def _take_or_break(self, choice: _Choice, one: Picked | NativeFailed, said: list[Up]) -> None:
        if isinstance(one, Picked):
            return self._take(choice, one, said)
        if isinstance(one, GrammarTooSlow):
            self._jobs.refuse(choice.grammar)
        param = bound_param(choice.run.job, one, called=choice.onset is None)
        return self._break(choice.run, str(one), said, param)

    def _reading(self, choice: _Choice) -> Reading:
        used = choice.run.used
        return Reading(
            choice.run.job.id, len(self._seqs[choice.seq].cells), used.prompt, used.cached
        )

    def _take(self, choice: _Choice, picked: Picked, said: list[Up]) -> None:
        token, run = picked.token, choice.run
        if self._native.is_end(token):
            return self._end(choice, "stop", said)
        marks = choice.speech.marks if choice.speech else ()
        piece = self._native.piece(token, special=token in self._specials(marks))
        try:
            token, piece = self._until_call(choice, token, piece)
        except NativeFailed as fault:
            return self._break(run, str(fault), said)
        choice.last = token
        choice.made += 1
        run.completion += 1
        heard = self._hear(choice, choice.text.feed(piece))
        likely = choice.likely.take(picked.logprob) if picked.logprob else []
        said.append(Token(run.job.id, choice.index, heard.text, heard.thought, heard.calls, likely))
        if choice.text.stopped:
            return self._end(choice, "stop", said)
        speech = choice.speech
        if speech and speech.calls_ended and not run.job.parallel:
            return self._end(choice, "stop", said)
        if choice.made >= choice.limit:
            return self._end(choice, "length", said)
        return None

    def _until_call(self, choice: _Choice, token: int, piece: bytes) -> tuple[int, bytes]:
        """Return a token, or the part of it that ends a call's mark: there a grammar binds."""
        onset = choice.onset
        if onset is None or choice.chain is None:
            return token, piece
        kept = onset.before(piece)
        if kept < len(piece):
            token = self._native.token_of(piece[:kept])
            piece = self._native.piece(token)
        if onset.take(piece):
            self._native.hold(choice.chain, choice.run.read.calls)
            choice.onset = None
            if choice.speech:
                choice.speech.forced = True
        return token, piece

    def _specials(self, marks: tuple[str, ...]) -> frozenset[int]:
        """Return the control tokens that must be shown, for they mark thoughts and calls."""
        if not marks:
            return frozenset()
        if marks not in self._marks:
            tokens = [self._native.tokenize(mark, ends=False) for mark in marks]
            self._marks[marks] = frozenset(found[0] for found in tokens if len(found) == 1)
        return self._marks[marks]

    def _hear(self, choice: _Choice, text: str) -> Said:
        speech = choice.speech
        if speech is None:
            return Said(text)
        if speech.thinking:
            choice.run.thought += 1
        heard = speech.feed(text)
        if choice.chain and not speech.thinking:
            choice.chain.held = True
        return heard

    def _end(self, choice: _Choice, reason: Reason, said: list[Up]) -> None:
        run = choice.run
        rest = Said(choice.text.finish())
        if speech := choice.speech:
            rest = speech.feed(rest.text).then(speech.finish())
            if reason == "stop" and speech.calls_made:
                reason = "tool_calls"
        said.append(
            ChoiceEnded(
                run.job.id,
                choice.index,
                reason,
                rest.text,
                rest.thought,
                rest.calls,
                choice.text.stop,
                choice.likely.finish(),
            )
        )
        self._leave(choice)
        run.at += 1
        if run.at == run.choices:
            said.append(Done(run.job.id, run.used))

    def _leave(self, choice: _Choice) -> None:
        if choice.chain:
            choice.chain.free()
            choice.chain = None
        if choice.seq >= 0:
            self._count += 1
            seq = self._seqs[choice.seq]
            seq.choice, seq.used = None, self._count
            choice.seq = -1

    def _all_choices(self) -> list[_Choice]:
        return [*self._waiting, *(seq.choice for seq in self._seqs if seq.choice)]

    def _drop(self, run: Run) -> None:
        self._texts.drop(run)
        for choice in self._all_choices():
            if choice.run is run:
                self._leave(choice)
        self._waiting = [choice for choice in self._waiting if choice.run is not run]

    def _break(self, run: Run, message: str, said: list[Up], param: str = "") -> None:
        """End a call that llama.cpp failed at; nothing of it stays in the memory."""
        for at, seq in enumerate(self._seqs):
            if seq.choice and seq.choice.run is run:
                seq.cells = seq.cells[: self._native.keep(at, 0)]
        self._drop(run)
        said.append(Broken(run.job.id, message, param))
