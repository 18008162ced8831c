"""What stands once in the ledger and is pointed to: words, accounts, prices, shapes of usage."""

import re
from collections.abc import Callable
from operator import itemgetter
from sqlite3 import Connection

import msgspec

from tollway.daemon.ledger.rows import Who
from tollway.providers.canon import Price

_MOST_CACHED = 50_000
_MOST_SHAPES = 256  # then a provider is making them up, and its usage is kept as it stands
_MOST_MASKS = 4096
_DIGITS = re.compile(r"[0-9]+")
_MASK = bytes.maketrans(b"0123456789", b"##########")


class Names:
    """The numbers of names, written into the open transaction where they are new."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._words: dict[str, int] = {}
        self._accounts: dict[tuple[str, ...], int] = {}
        self._prices: dict[str, int] = {}
        # By the text with each digit masked: where that is known, so is where the numbers are,
        # and they are cut out without a regular expression, which takes 6 us.
        self._masks: dict[bytes, tuple[int, Callable[[str], tuple[str, ...]]]] = {}
        self._shapes = dict(db.execute("SELECT shape, id FROM usage_shapes").fetchall())

    def usage(self, raw: str) -> tuple[int | None, str | None]:
        """Split a provider's usage into its shape, which repeats, and its numbers.

        `{"in":12,"out":3}` is `{"in":#,"out":#}` and `12,3`: lossless, and a tenth of the size.
        """
        if not raw:
            return None, None
        mask = raw.encode().translate(_MASK)
        if (known := self._masks.get(mask)) and "#" not in raw:
            shape, cut = known
            return shape, ",".join(cut(raw))
        return self._new_usage(raw, mask)

    def _new_usage(self, raw: str, mask: bytes) -> tuple[int | None, str | None]:
        if "#" in raw:
            return None, raw
        shape = _DIGITS.sub("#", raw)
        number = self._shapes.get(shape)
        if number is None:
            if len(self._shapes) >= _MOST_SHAPES:
                return None, raw
            number = self._shapes[shape] = _inserted(
                self._db, "INSERT INTO usage_shapes (shape) VALUES (?)", (shape,)
            )
        places = [slice(*found.span()) for found in _DIGITS.finditer(raw)]
        if len(places) > 1 and raw.isascii():  # one alone, itemgetter does not give as a tuple
            if len(self._masks) >= _MOST_MASKS:
                self._masks.clear()
            self._masks[mask] = number, itemgetter(*places)
        return number, ",".join(_DIGITS.findall(raw))

    def word_or_null(self, word: str) -> int | None:
        """Return a word's number, None for ""."""
        return self.word(word) if word else None

    def word(self, word: str) -> int:
        """Return a word's number."""
        known = self._words.get(word)
        return known if known is not None else self._new_word(word)

    def _new_word(self, word: str) -> int:
        found = self._db.execute("SELECT id FROM words WHERE word = ?", (word,)).fetchone()
        if len(self._words) >= _MOST_CACHED:
            self._words.clear()
        number = self._words[word] = (
            found[0]
            if found
            else _inserted(self._db, "INSERT INTO words (word) VALUES (?)", (word,))
        )
        return int(number)

    def account(self, who: Who, route: str, provider: str, model: str) -> int:
        """Return the number of the account that a call to a target is billed to."""
        names = (who.key, who.user, who.team, who.project, route, provider, model)
        known = self._accounts.get(names)
        if known is not None:
            return known
        found = self._db.execute(
            "SELECT id FROM accounts WHERE (key, user, team, project, route, provider, model)"
            " = (?, ?, ?, ?, ?, ?, ?)",
            names,
        ).fetchone()
        if len(self._accounts) >= _MOST_CACHED:
            self._accounts.clear()
        number = self._accounts[names] = (
            found[0]
            if found
            else _inserted(
                self._db,
                "INSERT INTO accounts (key, user, team, project, route, provider, model)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                names,
            )
        )
        return int(number)

    def price(self, price: Price | None) -> int | None:
        """Return a price's number, None where there is no price."""
        if price is None:
            return None
        known = self._prices.get(price.id)
        if known is not None:
            return known
        found = self._db.execute("SELECT number FROM prices WHERE id = ?", (price.id,)).fetchone()
        number = self._prices[price.id] = (
            found[0]
            if found
            else _inserted(
                self._db,
                "INSERT INTO prices (id, source, input_usd, output_usd, price)"
                " VALUES (?, ?, ?, ?, ?)",
                (
                    *(price.id, price.source, str(price.input.usd), str(price.output.usd)),
                    msgspec.json.encode(price).decode(),
                ),
            )
        )
        return int(number)


def _inserted(db: Connection, sql: str, values: tuple[object, ...]) -> int:
    number = db.execute(sql, values).lastrowid
    assert number is not None  # noqa: S101 - an INSERT of one row has one
    return number
