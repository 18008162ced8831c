"""Who is calling: headers to `Caller`, before the body is read."""

import hmac
from hashlib import sha256
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import hdrs
from multidict import MultiMapping

from tollway.daemon.config.schema import Config, Key
from tollway.daemon.config.validity import hashes_of
from tollway.daemon.errors import Unauthorized
from tollway.daemon.gate.authorise import Level, levels_of
from tollway.daemon.ledger.rows import Who

PREFIX = "tw-"
# Where client libraries put their key; `authorization` carries it behind "Bearer ".
# Names of this type, aiohttp's own, are compared without folding their case each time.
_HEADERS = tuple(
    type(hdrs.AUTHORIZATION)(name)
    for name in ("x-tollway-key", "x-api-key", "api-key", "x-goog-api-key")
)
LOCAL_USER = "local"


class Caller(msgspec.Struct, frozen=True):
    """Who asks, whom it is billed to, and what each level above the caller allows."""

    who: Who
    levels: tuple[Level, ...]
    everything: bool = False  # the owner: no list of models applies
    require_tags: tuple[str, ...] = ()  # names of tags that its calls must have


class _Entry(msgspec.Struct, frozen=True):
    caller: Caller
    digest: bytes
    until_s: float  # unix seconds; infinity for never


class Keyring:
    """The keys of one configuration, by the SHA-256 of their secret."""

    def __init__(self, config: Config) -> None:
        zone = ZoneInfo(config.server.timezone)
        self._entries: dict[bytes, _Entry] = {}
        self._owner = Caller(_local(config), (), everything=True)
        self._open = config.server.single_user
        self.callers: dict[str, Caller] = {}
        for name, key in config.keys.items():
            caller = self.callers[name] = _caller(config, name, key)
            for text, until_s in hashes_of(key, zone):
                self._add(caller, text, until_s)

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

        Raises:
            Unauthorized: No such credential, two different ones, or one that does not work.
        """
        if self._open:
            return self._owner
        secrets = _credentials(headers, query)
        if not secrets:
            if owner:
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
        # Bytes that are no text come as lone surrogates: such a key is unknown, not a fault.
        digest = sha256(secrets.pop().encode("utf-8", "surrogatepass")).digest()
        entry = self._entries.get(digest)
        if entry is None or not hmac.compare_digest(entry.digest, digest) or now_s >= entry.until_s:
            # Unknown, revoked and expired look alike: whoever guesses learns nothing.
            raise Unauthorized(
                "The Tollway key is unknown, revoked or expired",
                hint="`tollway keys list` shows the keys and how long they last",
            )
        return entry.caller


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


def _local(config: Config) -> Who:
    user = config.users.get(LOCAL_USER)
    return Who(user=LOCAL_USER, team=(user.team or "") if user else "")


def _caller(config: Config, name: str, key: Key) -> Caller:
    user = config.users.get(key.user) if key.user else None
    project = config.projects.get(key.project) if key.project else None
    team = (user and user.team) or (project and project.team) or ""
    who = Who(key=name, user=key.user or "", team=team, project=key.project or "")
    return Caller(who, levels_of(config, key, who), require_tags=key.require_tags)
