"""How the next token is chosen: llama.cpp's samplers, a chain for each choice, and its grammar."""

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from tollway.providers.llamacpp.apart import Apart, ApartGrammar, Wanted
from tollway.providers.llamacpp.frames import Likely, Logprob, Sampling
from tollway.providers.llamacpp.native import Chain as NativeChain
from tollway.providers.llamacpp.native import Late, NativeFailed, Pick, Picked

Floats = npt.NDArray[np.float32]

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
# From so many on, chains are worth a hand-over to other threads: llama.cpp lets Python go on.
_THREADED_FROM = 3
# Where the likeliest is chosen, only what changes which one that is; Mirostat cuts by itself.
_BEFORE_GREEDY = frozenset({"penalties", "dry"})
_BEFORE_MIROSTAT = frozenset({"penalties", "dry", "temperature"})
# A grammar in its own process is waited for so long, as most need less; then the step goes on.
_APART_WAIT_S = 0.005
# Of how many tokens Mirostat 1 estimates its exponent: llama.cpp's own number.
_MIROSTAT_M = 100


class Chain:
    """The samplers of one choice, and the grammar that it is held to. See `native.Chain`."""

    def __init__(
        self, llama: Any, samplers: Any, grammar: ApartGrammar | None, *, top_k: int = 0
    ) -> None:
        self.held = True
        self._llama = llama
        self._samplers = samplers  # None where the likeliest token is all that is asked for
        self._grammar = grammar
        self._top_k = top_k  # what they begin with; 0: with something else
        self._proposed = -1  # to the grammar
        self._logits: Floats | None = None  # it was chosen of

    @property
    def plain(self) -> bool:
        """Whether choosing costs next to nothing."""
        return self._samplers is None and (self._grammar is None or not self.held)

    @property
    def bound(self) -> bool:
        """Whether a grammar must be asked about each token."""
        return self._grammar is not None and self.held

    def choose(self, logits: Floats) -> int:
        """Return the next token, where no grammar binds.

        Raises:
            NativeFailed: No token is possible.
        """
        return self._accepted(self._sampled(logits, None))

    def propose(self, logits: Floats) -> None:
        """Ask the grammar about the token that would come next; `chosen` tells what comes of it.

        Raises:
            NativeFailed: No token is possible.
        """
        if self._grammar is None:
            raise NativeFailed("there is no grammar to ask")
        self._logits = logits
        self._proposed = self._sampled(logits, None)
        self._grammar.ask(self._proposed)

    def chosen(self, wait_s: float) -> tuple[int, Floats] | None:
        """Return the next token and the output that it is of; None if that is not known so soon.

        Raises:
            GrammarFailed: Its grammar lets it choose none.
            NativeFailed: No token is possible.
        """
        logits, grammar = self._logits, self._grammar
        if grammar is None or logits is None:
            raise NativeFailed("there is no grammar to ask")
        allowed = grammar.answer(wait_s)
        if allowed is None:
            if not logits.flags.owndata:
                self._logits = logits.copy()  # llama.cpp's next step writes over it
            return None
        token = self._proposed
        if not allowed:
            token = self._sampled(logits, grammar.mask)
            grammar.accept(token)
        return self._accepted(token), logits

    def accept(self, token: int) -> None:
        """See `native.Chain`. The grammar is none of the prompt's."""
        if self._samplers is not None:
            self._llama.llama_sampler_accept(self._samplers, token)

    def hold(self, grammar: ApartGrammar) -> None:
        """Be bound by a grammar from the next token on; it is the chain's to free."""
        self._grammar, self.held = grammar, True

    def free(self) -> None:
        """See `native.Chain`."""
        if self._samplers is not None:
            self._llama.llama_sampler_free(self._samplers)
        if self._grammar is not None:
            self._grammar.free()
        self._samplers = self._grammar = None

    def _accepted(self, token: int) -> int:
        self.accept(token)
        return token

    def _sampled(self, logits: Floats, mask: npt.NDArray[np.bool_] | None) -> int:
        if mask is not None:
            logits = np.where(mask, logits, np.float32(-np.inf))
        if self._samplers is None:
            return int(logits.argmax())
        among = likeliest(logits, self._top_k or len(logits))
        data = np.empty(len(among), CANDIDATE)
        data["id"], data["logit"], data["p"] = among, logits[among], 0
        chosen = apply(self._llama, self._samplers, data)
        if chosen < 0:
            raise NativeFailed("no token was chosen")
        return chosen


def likeliest(logits: Floats, count: int) -> npt.NDArray[np.intp]:
    """Return at least the `count` likeliest tokens in their order, and all as likely as they.

    Most often it is some hundreds of a vocabulary of 50,000 to 260,000. To show all of them to
    llama.cpp, only for its top-k to look for 40, takes 0.3 ms and more for each token.
    """
    if count >= len(logits):  # a look for all of them takes a millisecond
        return np.arange(len(logits))
    most = logits.max()
    for below in (8, 16):
        found = np.flatnonzero(logits >= most - np.float32(below))
        if len(found) >= count:
            return found
    return np.arange(len(logits))


def apply(llama: Any, sampler: Any, data: npt.NDArray[Any]) -> int:
    """Let a sampler judge candidates; return the token that it chose, -1 for none."""
    found = llama.llama_token_data_array(
        data.ctypes.data_as(ctypes.POINTER(llama.llama_token_data)), len(data), -1, False
    )
    llama.llama_sampler_apply(sampler, ctypes.byref(found))
    return int(found.data[found.selected].id) if 0 <= found.selected < found.size else -1


class Samplers:
    """Makes chains for one vocabulary, and runs them on a step's outputs."""

    def __init__(self, llama: Any, vocab: Any, vocabulary: int, threads: int, apart: Apart) -> None:
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
        sampler = self._llama.llama_sampler_init_grammar(self._vocab, grammar.encode(), b"root")
        if not sampler:
            return False
        self._llama.llama_sampler_free(sampler)
        return True

    def chain(self, sampling: Sampling, seed: int | None, grammar: str) -> Chain:
        """See `native.Native`."""
        ruled = self._apart.grammar(Wanted(grammar)) if grammar else None
        made, top_k = self._parts(sampling, seed)
        if not made:
            return Chain(self._llama, None, ruled)
        llama = self._llama
        chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        if not chain or not all(made):  # adding NULL would end the process at the next token
            raise NativeFailed("llama.cpp made no sampler")
        for part in made:
            llama.llama_sampler_chain_add(chain, part)
        return Chain(llama, chain, ruled, top_k=top_k)

    def hold(self, chain: NativeChain, grammar: str) -> None:
        """See `native.Native`."""
        _own(chain).hold(self._apart.grammar(Wanted(grammar)))

    def sample(
        self, picks: Sequence[Pick], piece: Callable[[int], bytes]
    ) -> Sequence[Picked | NativeFailed | Late]:
        """See `native.Native`."""
        asked = [(pick, self._output(pick.row), piece) for pick in picks]
        hard = sum(not _own(pick.chain).plain for pick in picks)
        if self._pool and hard >= _THREADED_FROM:
            found = list(self._pool.map(_choose, asked))
        else:
            found = [_choose(one) for one in asked]
        until = time.monotonic() + _APART_WAIT_S
        return [
            one.get(max(0.0, until - time.monotonic())) or one if isinstance(one, _Late) else one
            for one in found
        ]

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

    def _parts(self, sampling: Sampling, seed: int | None) -> tuple[list[Any], int]:
        """Return the samplers in the order that is asked for, and what chooses behind them.

        And how many tokens the first of them leaves, where that goes by their likelihood alone.
        """
        llama, order = self._llama, sampling.order
        chosen = int.from_bytes(os.urandom(4), "little") if seed is None else seed
        chosen %= 2**32
        greedy = sampling.temperature <= 0 and "temperature" in order
        if greedy or sampling.mirostat:
            among = _BEFORE_GREEDY if greedy else _BEFORE_MIROSTAT
            order = tuple(name for name in order if name in among)
        biases, judges = self._biases(sampling), self._judges(order, sampling, chosen)
        parts = [*biases, *(judge for _, judge in judges)]
        if greedy:
            return [*parts, llama.llama_sampler_init_greedy()] if parts else [], 0
        if sampling.mirostat:
            return [*parts, self._mirostat(sampling, chosen)], 0
        first = "" if biases or not judges else judges[0][0]
        top_k = sampling.top_k if first == "top_k" else 0
        return [*parts, llama.llama_sampler_init_dist(chosen)], top_k

    def _judges(self, order: Sequence[str], sampling: Sampling, seed: int) -> list[tuple[str, Any]]:
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
        asked = [(name, *every[name]) for name in order]
        return [(name, make()) for name, does, make in asked if does]

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
    """A token that a grammar is asked about. See `native.Late`."""

    def __init__(self, pick: Pick, piece: Callable[[int], bytes]) -> None:
        self._pick = pick
        self._piece = piece

    def get(self, wait_s: float) -> Picked | NativeFailed | None:
        """See `native.Late`."""
        try:
            found = _own(self._pick.chain).chosen(wait_s)
        except NativeFailed as fault:
            return fault
        return found and _picked(self._pick, *found, self._piece)


def _picked(pick: Pick, token: int, output: Floats, piece: Callable[[int], bytes]) -> Picked:
    told = None if pick.top is None else _logprob(output, token, pick.top, piece)
    return Picked(token, told)


def _own(chain: NativeChain) -> Chain:
    if not isinstance(chain, Chain):
        raise NativeFailed("a chain of another library")
    return chain


def _choose(
    asked: tuple[Pick, Floats, Callable[[int], bytes]],
) -> Picked | NativeFailed | _Late:
    pick, logits, piece = asked
    chain = _own(pick.chain)
    try:
        if chain.bound:
            chain.propose(logits)
            return _Late(pick, piece)
        return _picked(pick, chain.choose(logits), logits, piece)
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
