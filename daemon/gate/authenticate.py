"""Who is calling: headers to `Caller`, before the body is read."""

import hmac
import re
from hashlib import blake2b, sha256
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import hdrs
from multidict import MultiMapping

from tollway.daemon.config.schema import Config, Key
from tollway.daemon.config.validity import hashes_of
from tollway.daemon.errors import Forbidden, RunNotKnown, Unauthorized
from tollway.daemon.gate.authorise import Level, levels_of, owner_of, who_of
from tollway.daemon.gate.forwarded import is_forwarded
from tollway.daemon.gate.tags import NO_TAGS, Tags
from tollway.daemon.gate.tags import of as tags_of
from tollway.daemon.ledger.rows import Who
from tollway.daemon.runs import PREFIX as RUN_PREFIX
from tollway.daemon.runs import Run, Runs
from tollway.providers.errors import GatewayError

PREFIX = "tw-"
# What `tollway keys create` and `tollway run` make. Anything else that begins so, such as the
# `tw-your-key` of an example, is a word that some client library wants, and nobody's key.
_MADE_HERE = re.compile(rf"{PREFIX}[0-9a-f]{{64}}|{RUN_PREFIX}.*", re.DOTALL)
# Where client libraries put their key; `authorization` carries it behind "Bearer ".
# Names of this type, aiohttp's own, are compared without folding their case each time.
_HEADERS = tuple(
    type(hdrs.AUTHORIZATION)(name)
    for name in ("x-tollway-key", "x-api-key", "api-key", "x-goog-api-key")
)


class Caller(msgspec.Struct, frozen=True):
    """Who asks, whom it is billed to, and what each level above the caller allows."""

    who: Who
    levels: tuple[Level, ...]
    everything: bool = False  # the owner: no list of models applies
    require_tags: tuple[str, ...] = ()  # names of tags that its calls must have
    tags: Tags = NO_TAGS  # that all its calls have, whatever they say
    run: str = ""  # the id of the run that calls, "" for none
    prefix_owner: str = ""  # with whom it shares local models' kept prefixes, "" for everybody


class _Entry(msgspec.Struct, frozen=True):
    caller: Caller
    digest: bytes
    until_s: float  # unix seconds; infinity for never


class Keyring:
    """The keys of one configuration, and those of runs, by the SHA-256 of their secret."""

    def __init__(self, config: Config, runs: Runs | None = None) -> None:
        self._runs = Runs() if runs is None else runs
        zone = ZoneInfo(config.server.timezone)
        self._entries: dict[bytes, _Entry] = {}
        self._owner = Caller(owner_of(config), (), everything=True)
        self._open = config.server.single_user
        self._proxied = config.server.behind_proxy
        self.callers: dict[str, Caller] = {}
        self._until_s: dict[str, float] = {}  # of each key that works
        for name, key in config.keys.items():
            caller = self.callers[name] = _caller(config, name, key)
            for text, until_s in hashes_of(key, zone):
                self._add(caller, text, until_s)
                self._until_s[name] = max(until_s, self._until_s.get(name, 0.0))

    def _add(self, caller: Caller, text: str, until_s: float) -> None:
        digest = bytes.fromhex(text.removeprefix("sha256:"))
        self._entries[digest] = _Entry(caller, digest, until_s)

    @property
    def owner(self) -> Caller:
        """The caller on the admin socket, and everyone on a single-user gateway."""
        return self._owner

    def find(
        self,
        headers: MultiMapping[str],
        query: MultiMapping[str] | None,
        now_s: float,
        *,
        owner: bool,
    ) -> Caller:
        """Return who is calling.

        Exactly one credential that begins with "tw-" counts, however often it is repeated;
        others are not ours and are dropped. `owner`: the call came over the admin socket.
        A single user's gateway asks for none; one that was made here must work there too, since
        its calls were to be held back and counted as somebody's.

        Raises:
            Unauthorized: No such credential, two different ones, or one that does not work.
            Forbidden: A single user's gateway is asked from another machine.
            RunNotKnown: It is a run's that has not told this daemon of itself yet.
        """
        secrets = _credentials(headers, query)
        if self._open and secrets:
            secrets = set(filter(_MADE_HERE.fullmatch, secrets))
        if not secrets:
            if owner:
                return self._owner
            if self._open:
                if not self._proxied and is_forwarded(headers):
                    raise Forbidden(
                        "A proxy passed this on from another machine, and this gateway asks nobody"
                        " for a key",
                        hint="Make keys (`tollway keys create`) in place of `server.single_user`;"
                        " or, where the proxy itself asks who comes, set `server.behind_proxy`",
                    )
                return self._owner
            raise Unauthorized(
                "No Tollway key was sent",
                hint="Send one that begins with `tw-` as the API key (`Authorization: Bearer`);"
                " `tollway keys create` makes one",
            )
        if len(secrets) > 1:
            raise Unauthorized(
                "Two different Tollway keys were sent", hint="Send one of them, in one header"
            )
        secret = secrets.pop()
        digest = _digest(secret)
        if self._runs and (run := self._runs.find(digest)):
            return self._of_run(run, now_s)
        entry = self._entries.get(digest)
        if entry is None or not hmac.compare_digest(entry.digest, digest) or now_s >= entry.until_s:
            raise self._unknown(secret, digest)
        return entry.caller

    def works(self, name: str, now_s: float) -> bool:
        """Whether there is a key of this name that works now."""
        return now_s < self._until_s.get(name, 0.0)

    def _of_run(self, run: Run, now_s: float) -> Caller:
        """Return the caller that a run's calls are billed to.

        Raises:
            Unauthorized: The key that it goes by has ended.
        """
        if run.key is None:
            return msgspec.structs.replace(self._owner, tags=run.tags, run=run.id)
        if not self.works(run.key, now_s):
            raise Unauthorized(
                "The Tollway key that this run goes by is revoked or expired",
                hint="`tollway keys list` shows the keys and how long they last",
            )
        own = self.callers[run.key]
        return msgspec.structs.replace(own, tags=run.tags.over(own.tags), run=run.id)

    def _unknown(self, secret: str, digest: bytes) -> GatewayError:
        """Return the refusal of a secret that opens nothing, by what it looks like alone."""
        if secret.startswith(RUN_PREFIX):
            if self._runs.expects(digest):
                return RunNotKnown(
                    "The daemon has just begun and does not know this run of `tollway run` yet",
                    hint="Ask again in a second: a run that goes on tells of itself",
                )
            return Unauthorized(
                "The run of `tollway run` that this key was made for has ended, or is unknown here",
                hint="Its key ends with it; `tollway run -- COMMAND` begins another",
            )
        if self._open:
            return Unauthorized(
                "The Tollway key is unknown here: this gateway is of a single user, without keys",
                hint="Send none, or any other word where a client wants one",
            )
        # Unknown, revoked and expired look alike: whoever guesses learns nothing.
        return Unauthorized(
            "The Tollway key is unknown, revoked or expired",
            hint="`tollway keys list` shows the keys and how long they last",
        )


def _digest(secret: str) -> bytes:
    # Bytes that are no text come as lone surrogates: such a key is unknown, not a fault.
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _credentials(headers: MultiMapping[str], query: MultiMapping[str] | None) -> set[str]:
    # All headers of a name: whose call it is must not depend on which of them is looked at.
    found = set()
    for value in headers.getall(hdrs.AUTHORIZATION, ()):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer" and (token := token.strip()).startswith(PREFIX):
            found.add(token)
    for name in _HEADERS:
        if name in headers:
            found.update(value.strip() for value in headers.getall(name) if _is_ours(value))
    if query:
        found.update(filter(_is_ours, query.getall("key", ())))
    return found


def _is_ours(secret: str) -> bool:
    return secret.startswith(PREFIX)


def _caller(config: Config, name: str, key: Key) -> Caller:
    who = who_of(config, name, key)
    own = tags_of(f"{tag}={value}" for tag, value in key.tags.items())
    levels = levels_of(config, key, who)
    return Caller(
        who,
        levels,
        require_tags=key.require_tags,
        tags=own if key.tags else NO_TAGS,
        prefix_owner=_prefix_owner(name) if key.private_prefix else "",
    )


def _prefix_owner(name: str) -> str:
    """Return what a worker knows a key by: the same after a rotation, and no name."""
    return blake2b(name.encode(), digest_size=16, person=b"prefix owner").hexdigest()
