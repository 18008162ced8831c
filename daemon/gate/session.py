"""Which session a call belongs to: what reports add up `--by session`.

The first that is there of: the header `x-tollway-session`; the tag `session`; the header in which
a coding agent names its own session, which is also the name of its log; the run of `tollway run`.
"""

from collections.abc import Mapping

from aiohttp import hdrs

from tollway.daemon.gate.tags import Tags

NAME = "x-tollway-session"
# Names of this type, aiohttp's own, are compared without folding their case each time.
_istr = type(hdrs.AUTHORIZATION)
_NAME = _istr(NAME)
# Claude Code; Codex, whose name for it changed.
_AGENTS = tuple(map(_istr, ("x-claude-code-session-id", "session-id", "session_id")))
_LONGEST = 100


def session_of(headers: Mapping[str, str], tags: Tags, run: str) -> str:
    """Return the session's name, printable and of at most 100 characters, "" where there is none.

    Args:
        headers: The request's, found whatever their case.
        tags: Of the call.
        run: The id of its run, "" where it has none.
    """
    if said := headers.get(_NAME):
        return _clean(said)
    for pair in tags.pairs:
        if pair.startswith("session="):
            return pair.removeprefix("session=")[:_LONGEST]
    for name in _AGENTS:
        if said := headers.get(name):
            return _clean(said)
    return run


def _clean(text: str) -> str:
    return "".join(one if one.isascii() and one.isprintable() else "?" for one in text)[:_LONGEST]
