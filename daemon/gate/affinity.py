"""Calls of one conversation stay at the target that served it, while that is among its targets.

There its prompt is cached, and there alone what a provider encrypted for itself can be read. No
text is kept: a conversation is known by a digest under a key that this process made for itself,
so what is in memory is of no use to anybody who reads it, and nothing is ever written down.

A conversation is named by its client, in a header or in the request. One without a name is known
by what it begins with, once there is an answer in it: two that begin alike are told apart by
nobody, and a first call that is sent again and again is no conversation.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b

import msgspec

from tollway.providers.canon import Call
from tollway.providers.dialects import conversation_id

MOST = 20_000  # conversations; the one that was silent longest goes first
IDLE_S = 3600.0  # the longest that any provider keeps a prompt cached
# Claude Code says X-Claude-Code-Session-Id, Codex session_id (older ones conversation_id too, newer
# ones session-id and thread-id); the others are what further agents and OpenRouter's clients say.
HEADERS = (
    "x-claude-code-session-id",
    "session_id",
    "session-id",
    "conversation_id",
    "thread_id",
    "thread-id",
    "x-session-id",
    "x-session-affinity",
)
_SESSIONS = frozenset(HEADERS)
_LONGEST = 512  # of a name; a longer one is cut, which only lets conversations share a target


class Kept(msgspec.Struct, frozen=True, gc=False):
    """Where a conversation was last served: the target, and which of its provider's keys."""

    target: str
    key: str = ""  # what the pool of keys calls it, never the key itself


class Affinity:
    """Where conversations are served. `clock` tells seconds, ever forward."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._secret = secrets.token_bytes(32)
        self._kept: OrderedDict[bytes, tuple[float, Kept]] = OrderedDict()
        self._strayed: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def digest(self, *parts: str) -> bytes:
        """Return what a conversation is known by; nobody else can make it or read it back."""
        hashed = blake2b(key=self._secret, digest_size=16)
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            hashed.update(len(data).to_bytes(8, "big"))
            hashed.update(data)
        return hashed.digest()

    def stray(self, name: str) -> None:
        """Note that a call by a name was served elsewhere than where its calls begin."""
        if len(self._strayed) >= self._most:
            self._strayed.clear()
        self._strayed[name] = self._clock()

    def has_strayed(self, name: str) -> bool:
        """Whether a conversation by a name may be elsewhere than where its calls begin."""
        at_s = self._strayed.get(name)
        if at_s is None:
            return False
        if self._clock() - at_s > IDLE_S:
            del self._strayed[name]
            return False
        return True

    def find(self, digest: bytes) -> Kept | None:
        """Return where a conversation was served, None where that is not known any more."""
        known = self._kept.get(digest)
        if known is None:
            return None
        if self._clock() - known[0] > IDLE_S:
            del self._kept[digest]
            return None
        return known[1]

    def keep(self, digest: bytes, kept: Kept) -> None:
        """Take note of where a conversation was served just now."""
        now_s = self._clock()
        self._kept[digest] = (now_s, kept)
        self._kept.move_to_end(digest)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        # The oldest stand first: each call clears away what has expired there.
        oldest, (at_s, _) = next(iter(self._kept.items()))
        if now_s - at_s > IDLE_S:
            del self._kept[oldest]


class Stay:
    """One call's conversation: where it was served before, and where that is to be noted."""

    __slots__ = ("_affinity", "_known_by", "_whose", "kept")

    def __init__(self, affinity: Affinity, whose: Sequence[str], call: Call, session: str) -> None:
        """Take a call.

        Args:
            affinity: Where conversations are known.
            whose: Its caller and its route: nobody's conversation is another's.
            call: What it asks for.
            session: What its headers call the session, "" for nothing.
        """
        self._affinity = affinity
        self._whose = tuple(whose)
        named = conversation_id.named(call)
        # The most certain first: an answer to go on from is at one provider and nowhere else.
        found = [
            ("answer", named.answer),
            ("session", session or named.session),
            ("cache", named.cache),
        ]
        names = [(kind, name[:_LONGEST]) for kind, name in found if name]
        self._known_by: bytes | None = None
        self.kept: Kept | None = None
        for kind, name in names:
            digest = affinity.digest(*self._whose, kind, name)
            if kind != "answer" and self._known_by is None:
                self._known_by = digest
            self.kept = self.kept or affinity.find(digest)
        if not names and (opening := conversation_id.opening(call)):
            self._known_by = affinity.digest(*self._whose, "opening", opening)
            if conversation_id.goes_on(call):
                self.kept = affinity.find(self._known_by)

    def served(self, target: str, *, answer: str = "", key: str = "") -> None:
        """Take note of where the call was served.

        Args:
            target: The target's name.
            answer: What the provider calls its answer, where a later call may go on from it.
            key: Which of the provider's keys it was sent with, as its pool calls that.
        """
        kept = Kept(target, key)
        if self._known_by is not None:
            self._affinity.keep(self._known_by, kept)
        if answer:
            digest = self._affinity.digest(*self._whose, "answer", answer[:_LONGEST])
            self._affinity.keep(digest, kept)


def conversation_in(headers: Sequence[tuple[str, str]]) -> str:
    """Return what a request's headers call its session, "" for nothing; names in lower case."""
    said = {name: value for name, value in headers if name in _SESSIONS}
    return next((said[name] for name in HEADERS if said.get(name)), "") if said else ""
