"""How the next token is chosen: llama.cpp's samplers, a chain for each choice, and its grammar."""

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from tollway.providers.llamacpp.apart import Apart, ApartChain, Wanted
from tollway.providers.llamacpp.frames import Likely, Logprob, Sampling
from tollway.providers.llamacpp.native import Chain as NativeChain
from tollway.providers.llamacpp.native import (
    GrammarFailed,
    GrammarTooSlow,
    Late,
    NativeFailed,
    Pick,
    Picked,
)

Floats = npt.NDArray[np.float32]

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
# From so many on, chains are worth a hand-over to other threads: llama.cpp lets Python go on.
_THREADED_FROM = 3
# Where the likeliest is chosen, only what changes which one that is; Mirostat cuts by itself.
_BEFORE_GREEDY = frozenset({"penalties", "dry"})
_BEFORE_MIROSTAT = frozenset({"penalties", "dry", "temperature"})
# Of the first tokens by a grammar of a caller's own, so many are tried in any case, and more while
# they cost little, for what makes it slow may stand behind what does not.
_TRIAL_TOKENS = 4
_MORE_S = 0.3
_MORE_TOKENS = 256
# Chains of other processes are waited for so long, as most need less; then the step goes on.
_APART_WAIT_S = 0.005
# Of how many tokens Mirostat 1 estimates its exponent: llama.cpp's own number.
_MIROSTAT_M = 100


class Chain:
    """The samplers of one choice. See `native.Chain`."""

    # Of CPU time for one token: all other answers stand still meanwhile. Some grammars grow with
    # each token that could be read in several ways.
    grammar_s = 2.0

    def __init__(self, llama: Any, samplers: Any, grammar: Any, *, greedy: bool) -> None:
        self.held = True
        self._llama = llama
        self._samplers = samplers  # None where the likeliest token is all that is asked for
        self._grammar = grammar
        self.plain = greedy and samplers is None and grammar is None
        self._greedy = greedy

    def choose(self, logits: Floats) -> int:
        """Return the next token.

        Raises:
            GrammarFailed: Its grammar lets it choose none.
            NativeFailed: No token is possible.
        """
        token = self._sampled(logits, ruled=False)
        began = time.thread_time()
        if self._grammar is not None and self.held:
            # What was chosen is nearly always allowed; asking for one token is cheap, for all
            # of the vocabulary dear.
            if not self._allows(token):
                token = self._sampled(logits, ruled=True)
            self._llama.llama_sampler_accept(self._grammar, token)
            if time.thread_time() - began > self.grammar_s:
                raise GrammarTooSlow("the grammar takes too long, and others' answers wait for it")
        if self._samplers is not None:
            self._llama.llama_sampler_accept(self._samplers, token)
        return token

    def accept(self, token: int) -> None:
        """See `native.Chain`. The grammar is none of the prompt's."""
        if self._samplers is not None:
            self._llama.llama_sampler_accept(self._samplers, token)

    def hold(self, grammar: Any) -> None:
        """Be bound by a grammar from the next token on; it is the chain's to free."""
        self._grammar, self.held, self.plain = grammar, True, False

    def free(self) -> None:
        """See `native.Chain`."""
        for sampler in (self._samplers, self._grammar):
            if sampler is not None:
                self._llama.llama_sampler_free(sampler)
        self._samplers = self._grammar = None
        self.plain = False

    def _sampled(self, logits: Floats, *, ruled: bool) -> int:
        if self._samplers is None and not ruled:
            return int(logits.argmax())
        data = np.empty(len(logits), _CANDIDATE)
        data["id"] = np.arange(len(logits), dtype=np.int32)
        data["logit"], data["p"] = logits, 0
        if ruled:
            self._apply(self._grammar, data)
            if not np.isfinite(data["logit"].max()):
                raise GrammarFailed("the grammar allows no token here")
        if self._samplers is None:
            return int(data["id"][data["logit"].argmax()])
        chosen = self._apply(self._samplers, data)
        if chosen < 0:
            raise NativeFailed("no token was chosen")
        return chosen

    def _allows(self, token: int) -> bool:
        one = np.array([(token, 1.0, 0.0)], _CANDIDATE)
        self._apply(self._grammar, one)
        return bool(np.isfinite(one["logit"][0]))

    def _apply(self, sampler: Any, data: npt.NDArray[Any]) -> int:
        """Let a sampler judge candidates; return the token that it chose, -1 for none."""
        kind = self._llama.llama_token_data
        found = self._llama.llama_token_data_array(
            data.ctypes.data_as(ctypes.POINTER(kind)), len(data), -1, False
        )
        self._llama.llama_sampler_apply(sampler, ctypes.byref(found))
        return int(found.data[found.selected].id) if 0 <= found.selected < found.size else -1


class Samplers:
    """Makes chains for one vocabulary, and runs them on a step's outputs."""

    def __init__(
        self, llama: Any, vocab: Any, vocabulary: int, threads: int, apart: Apart | None = None
    ) -> None:
        self._llama = llama
        self._vocab = vocab
        self._vocabulary = vocabulary
        self._apart = apart
        self._pool = ThreadPoolExecutor(threads, "sampler") if threads > 1 else None
        self._context: Any = None
        self._rows: list[int] = []
        # As arrays, which take long to make, by their address: llama.cpp writes them where they
        # were. One for each row of its buffer, so bounded; a buffer that has moved has others.
        self._outputs: dict[int, Floats] = {}
        self._ends: list[int] = []  # the tokens that end an answer, once they are asked for

    def outputs(self, context: Any, rows: list[int]) -> None:
        """Take note of where a step's outputs are: the batch's row for each of its pieces."""
        self._context, self._rows = context, rows

    def compiles(self, grammar: str) -> bool:
        """See `native.Native`."""
        sampler = self._grammar(grammar)
        if not sampler:
            return False
        self._llama.llama_sampler_free(sampler)
        return True

    def bears(self, grammar: str) -> bool:
        """See `native.Native`.

        Brackets within brackets overflow llama.cpp's stack, and thousands of optional parts take
        it hours.
        """
        return self._others().bears(grammar)

    def begin_by(self, grammar: str) -> None:
        """Choose the first tokens by a grammar; what cannot be, the call itself will be told."""
        if sampler := self._grammar(grammar):
            logits = np.zeros(self._vocabulary, np.float32)
            logits[self._all_ends()] = -1
            chain = Chain(self._llama, None, sampler, greedy=True)
            for at in range(_MORE_TOKENS):
                if at >= _TRIAL_TOKENS and time.process_time() > _MORE_S:
                    break
                if chain.choose(logits) in self._all_ends():
                    break

    def _others(self) -> Apart:
        if self._apart is None:
            raise NativeFailed("chains cannot be made apart here")
        return self._apart

    def apart(self, sampling: Sampling, seed: int | None, grammar: str) -> ApartChain:
        """Return a chain as `chain` does, in a process of its own."""
        return self._others().chain(Wanted(grammar, sampling, seed))

    def chain(self, sampling: Sampling, seed: int | None, grammar: str) -> Chain:
        """See `native.Native`."""
        ruled = None
        if grammar and not (ruled := self._grammar(grammar)):
            raise NativeFailed("llama.cpp does not understand the grammar")
        made = self._parts(sampling, seed)
        if not made:
            return Chain(self._llama, None, ruled, greedy=True)
        llama = self._llama
        chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        if not chain or not all(made):  # adding NULL would end the process at the next token
            raise NativeFailed("llama.cpp made no sampler")
        for part in made:
            llama.llama_sampler_chain_add(chain, part)
        return Chain(llama, chain, ruled, greedy=False)

    def hold(self, chain: NativeChain, grammar: str) -> None:
        """See `native.Native`."""
        ruled = self._grammar(grammar)
        if not ruled:
            raise NativeFailed("llama.cpp does not understand the grammar")
        _own(chain).hold(ruled)

    def sample(
        self, picks: Sequence[Pick], piece: Callable[[int], bytes]
    ) -> Sequence[Picked | NativeFailed | Late]:
        """See `native.Native`."""
        asked = [(pick, self._output(pick.row)) for pick in picks]
        late: dict[int, Late] = {}
        for pick, output in asked:
            if isinstance(pick.chain, ApartChain):  # it chooses while those of this process do
                pick.chain.ask(output)
                late[pick.row] = _Late(pick, pick.chain, piece)
        mine = [one for one in asked if one[0].row not in late]
        hard = sum(not _chain(pick).plain for pick, _ in mine)
        if self._pool and hard >= _THREADED_FROM:
            tokens = list(self._pool.map(_choose, mine))
        else:
            tokens = [_choose(one) for one in mine]
        found: dict[int, Picked | NativeFailed | Late] = {
            pick.row: token
            if isinstance(token, NativeFailed)
            else _picked(pick, token, output, piece)
            for (pick, output), token in zip(mine, tokens, strict=True)
        }
        if late:
            until = time.monotonic() + _APART_WAIT_S
            for row, one in late.items():
                found[row] = one.get(max(0.0, until - time.monotonic())) or one
        return [found[pick.row] for pick in picks]

    def _output(self, row: int) -> Floats:
        found = self._llama.llama_get_logits_ith(self._context, self._rows[row])
        if not found:
            raise NativeFailed("llama.cpp gave no output")
        address = ctypes.addressof(found.contents)
        output = self._outputs.get(address)
        if output is None:
            output = np.ctypeslib.as_array(found, shape=(self._vocabulary,))
            self._outputs[address] = output
        return output

    def _grammar(self, grammar: str) -> Any:
        return self._llama.llama_sampler_init_grammar(self._vocab, grammar.encode(), b"root")

    def _parts(self, sampling: Sampling, seed: int | None) -> list[Any]:
        """Return the samplers in the order that is asked for, and what chooses behind them."""
        llama, order = self._llama, sampling.order
        chosen = int.from_bytes(os.urandom(4), "little") if seed is None else seed
        chosen %= 2**32
        greedy = sampling.temperature <= 0 and "temperature" in order
        if greedy or sampling.mirostat:
            among = _BEFORE_GREEDY if greedy else _BEFORE_MIROSTAT
            order = tuple(name for name in order if name in among)
        parts = [*self._biases(sampling), *self._judges(order, sampling, chosen)]
        if greedy:
            return [*parts, llama.llama_sampler_init_greedy()] if parts else []
        if sampling.mirostat:
            return [*parts, self._mirostat(sampling, chosen)]
        return [*parts, llama.llama_sampler_init_dist(chosen)]

    def _judges(self, order: Sequence[str], sampling: Sampling, seed: int) -> list[Any]:
        """Return the samplers of these names, without those that would change nothing."""
        llama, heat = self._llama, sampling.temperature
        penalties = (sampling.repeat, sampling.frequency, sampling.presence)
        back = sampling.repeat_last if penalties != (1.0, 0.0, 0.0) else 0
        every: dict[str, tuple[bool, Callable[[], Any]]] = {
            "penalties": (
                back != 0,
                lambda: llama.llama_sampler_init_penalties(self._vocabulary, back, *penalties),
            ),
            "dry": (bool(sampling.dry and sampling.dry_last), lambda: self._dry(sampling)),
            "top_n_sigma": (
                sampling.sigma >= 0,
                lambda: llama.llama_sampler_init_top_n_sigma(sampling.sigma),
            ),
            "top_k": (sampling.top_k > 0, lambda: llama.llama_sampler_init_top_k(sampling.top_k)),
            "typ_p": (
                sampling.typical_p < 1,
                lambda: llama.llama_sampler_init_typical(sampling.typical_p, 1),
            ),
            "top_p": (True, lambda: llama.llama_sampler_init_top_p(sampling.top_p, 1)),
            "min_p": (True, lambda: llama.llama_sampler_init_min_p(sampling.min_p, 1)),
            "xtc": (
                sampling.xtc > 0,
                lambda: llama.llama_sampler_init_xtc(sampling.xtc, sampling.xtc_threshold, 1, seed),
            ),
            "temperature": (
                True,
                lambda: (
                    llama.llama_sampler_init_temp_ext(heat, sampling.spread, sampling.exponent)
                    if sampling.spread
                    else llama.llama_sampler_init_temp(heat)
                ),
            ),
        }
        asked = [every[name] for name in order]
        return [make() for does, make in asked if does]

    def _biases(self, sampling: Sampling) -> list[Any]:
        llama = self._llama
        bias = dict(sampling.bias)
        if sampling.endless:
            bias |= dict.fromkeys(self._all_ends(), float("-inf"))
        if not bias:
            return []
        biases = (llama.llama_logit_bias * len(bias))(
            *[llama.llama_logit_bias(token, one) for token, one in bias.items()]
        )
        return [llama.llama_sampler_init_logit_bias(self._vocabulary, len(biases), biases)]

    def _dry(self, sampling: Sampling) -> Any:
        said = [one.encode() for one in sampling.dry_breakers]
        return self._llama.llama_sampler_init_dry(
            self._vocab,
            sampling.dry,
            sampling.dry_base,
            sampling.dry_allowed,
            sampling.dry_last,
            (ctypes.c_char_p * len(said))(*said),
            len(said),
        )

    def _mirostat(self, sampling: Sampling, seed: int) -> Any:
        llama, tau, eta = self._llama, sampling.tau, sampling.eta
        if sampling.mirostat == 2:
            return llama.llama_sampler_init_mirostat_v2(seed, tau, eta)
        return llama.llama_sampler_init_mirostat(self._vocabulary, seed, tau, eta, _MIROSTAT_M)

    def _all_ends(self) -> list[int]:
        if not self._ends:
            ends = self._llama.llama_vocab_is_eog
            self._ends = [one for one in range(self._vocabulary) if ends(self._vocab, one)]
        return self._ends


class _Late:
    """A token that a chain of another process chooses. See `native.Late`."""

    def __init__(self, pick: Pick, chain: ApartChain, piece: Callable[[int], bytes]) -> None:
        self._pick = pick
        self._chain = chain
        self._piece = piece

    def get(self, wait_s: float) -> Picked | NativeFailed | None:
        """See `native.Late`."""
        try:
            token = self._chain.answer(wait_s)
        except NativeFailed as fault:
            return fault
        if token is None:
            return None
        return _picked(self._pick, token, self._chain.logits, self._piece)


def _picked(pick: Pick, token: int, output: Floats, piece: Callable[[int], bytes]) -> Picked:
    told = None if pick.top is None else _logprob(output, token, pick.top, piece)
    return Picked(token, told)


def _chain(pick: Pick) -> Chain:
    return _own(pick.chain)


def _own(chain: NativeChain) -> Chain:
    if not isinstance(chain, Chain):
        raise NativeFailed("a chain of another library")
    return chain


def _choose(asked: tuple[Pick, Floats]) -> int | NativeFailed:
    pick, logits = asked
    try:
        return _chain(pick).choose(logits)
    except NativeFailed as fault:  # this one's alone: the others have their tokens
        return fault


def _logprob(logits: Floats, token: int, top: int, piece: Callable[[int], bytes]) -> Logprob:
    most = logits.max()
    total = float(most) + float(np.log(np.exp(logits - most).sum(dtype=np.float64)))

    def likely(which: int) -> Likely:
        return Likely(which, piece(which), float(logits[which]) - total)

    best: list[int] = []
    if top:
        some = np.argpartition(logits, -top)[-top:]
        best = [int(which) for which in some[np.argsort(-logits[some], kind="stable")]]
    return Logprob(likely(token), [likely(which) for which in best])
