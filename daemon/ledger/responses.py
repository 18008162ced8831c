"""Answers of the Responses API that are kept, so that later calls can build on them.

Only such as the gateway translated, with `ledger.bodies = "all"`: a provider that speaks the API
itself keeps its own. They are written with the call's bodies, by the same thread, and go with
them after `keep_bodies`. Each is its caller's alone: of one key, or of one user without a key.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection

import msgspec

from tollway.daemon.errors import LedgerInvalid
from tollway.daemon.ledger.reading import reading

_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


class Response(msgspec.Struct, frozen=True):
    """One answer. `input` is a JSON array: what this call added to the answers before."""

    id: str
    key: str
    user: str
    at_ms: int
    previous: str  # the id of the answer that it builds on, or ""
    input: bytes
    body: bytes  # the response object, as the client got it
    items: tuple[str, ...]  # the ids of its items, input and output


class Forget(msgspec.Struct):
    """The wish that an answer be deleted; `told` is called, in the writer's thread, once it is."""

    id: str
    told: Callable[[], None]
    done: None = None


def packed(response: Response, mask: Callable[[str], str]) -> Response:
    """Return an answer as the file holds it: masked and compressed."""
    said, body = (
        zlib.compress(mask(text.decode("utf-8", "replace")).encode(), 6)
        for text in (response.input, response.body)
    )
    return msgspec.structs.replace(response, input=said, body=body)


def write(db: Connection, one: Response) -> None:
    """Write an answer into the open transaction."""
    seq = db.execute(
        "INSERT OR REPLACE INTO responses (id, key, user, at_ms, previous, input, body)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING seq",
        (one.id, one.key, one.user, one.at_ms, one.previous or None, one.input, one.body),
    ).fetchone()[0]
    db.executemany(
        "INSERT OR REPLACE INTO response_items (id, response) VALUES (?, ?)",
        [(item, seq) for item in one.items],
    )


def delete(db: Connection, response_id: str) -> None:
    """Delete an answer in the open transaction."""
    _delete(db, "id = ?", (response_id,))


def expire(db: Connection, before_ms: int, most: int) -> int:
    """Delete up to `most` answers of before a moment; return how many there were."""
    where = "seq IN (SELECT seq FROM responses WHERE at_ms < ? ORDER BY at_ms LIMIT ?)"
    return _delete(db, where, (before_ms, most))


def _delete(db: Connection, where: str, values: tuple[object, ...]) -> int:
    db.execute(
        "DELETE FROM response_items WHERE response IN"  # noqa: S608 - our own words
        f" (SELECT seq FROM responses WHERE {where})",
        values,
    )
    return db.execute(f"DELETE FROM responses WHERE {where}", values).rowcount  # noqa: S608


def find(path: Path, response_id: str) -> Response | None:
    """Return an answer, or None where it is not kept.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read, or the answer is damaged.
    """
    with reading(path) as db:
        row = db.execute(
            "SELECT id, key, user, at_ms, coalesce(previous, ''), input, body FROM responses"
            " WHERE id = ?",
            (response_id,),
        ).fetchone()
    if row is None:
        return None
    try:
        said, body = zlib.decompress(row[5]), zlib.decompress(row[6])
    except zlib.error as fault:
        raise LedgerInvalid(
            "What was kept of this answer is damaged", hint="`tollway ledger verify` checks it"
        ) from fault
    name, key, user, at_ms, previous = row[:5]
    return Response(name, key, user, at_ms, previous, said, body, ())


def holding(path: Path, item_id: str) -> str:
    """Return the id of the answer that an item belongs to, "" where none is kept.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    with reading(path) as db:
        row = db.execute(
            "SELECT r.id FROM response_items i JOIN responses r ON r.seq = i.response"
            " WHERE i.id = ?",
            (item_id,),
        ).fetchone()
    return str(row[0]) if row else ""


def output_of(one: Response) -> list[msgspec.Raw]:
    """Return the items that an answer said."""
    return msgspec.json.decode(one.body, type=_Output).output


def input_of(one: Response) -> list[msgspec.Raw]:
    """Return the items that its call added."""
    return _ITEMS.decode(one.input)


class _Output(msgspec.Struct):
    output: list[msgspec.Raw] = []
