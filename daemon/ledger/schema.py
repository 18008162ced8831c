"""The ledger's tables and views, as numbered migrations that are never edited once released.

Texts that repeat from call to call stand once in `words` and `accounts`, and the rows point to
them: that, and nothing else, is why a call with its attempt takes under 300 bytes. Each table
has a view for people, named `*_readable`, with the words, dollars and local times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection
from typing import TYPE_CHECKING

from tollway.daemon.errors import LedgerInvalid
from tollway.daemon.ledger import release, schema_6, schema_8, schema_9, upgrade

if TYPE_CHECKING:
    from sqlite_utils import Database

APPLICATION_ID = 0x746F6C6C  # "toll": how a ledger is told from any other SQLite file
VERSION = 9  # `PRAGMA user_version` once all of `_MIGRATIONS` are applied
QUARTER_MS = 900_000

# What versions 1 to 3 of the file told apart.
_TOKENS_1 = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "audio_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_output_tokens",
)
_TOKENS_4 = ("image_input_tokens", "image_output_tokens", "searches")
# In the order of the fields of `canon.Usage`.
TOKENS = _TOKENS_1 + _TOKENS_4
# What `calls.state` says. Settled is 0 because SQLite stores 0 and 1 in no bytes at all.
SETTLED, OPEN, RECOVERED, REFUSED, QUEUED = range(5)
STATES = ("settled", "open", "recovered", "refused", "queued")

ID_HEAD = "substr(id, 1, 13)"
_TOKEN_COLUMNS = ", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in _TOKENS_1)
_TABLES = (
    """CREATE TABLE words (
        id INTEGER PRIMARY KEY,
        word TEXT NOT NULL UNIQUE
    ) STRICT""",
    """CREATE TABLE accounts (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL, user TEXT NOT NULL, team TEXT NOT NULL, project TEXT NOT NULL,
        route TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL,
        UNIQUE (key, user, team, project, route, provider, model)
    ) STRICT""",
    """CREATE TABLE prices (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        source TEXT NOT NULL,
        input_usd TEXT NOT NULL,
        output_usd TEXT NOT NULL,
        price TEXT NOT NULL
    ) STRICT""",
    # Columns that the call's end fills have defaults, so that its upsert need not name the others.
    f"""CREATE TABLE calls (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 4),
        account INTEGER NOT NULL REFERENCES accounts (id),
        admitted_ms INTEGER NOT NULL,
        total_ms INTEGER,
        first_ms INTEGER,
        dialect INTEGER NOT NULL DEFAULT 0 REFERENCES words (id),
        endpoint INTEGER NOT NULL DEFAULT 0 REFERENCES words (id),
        requested INTEGER NOT NULL DEFAULT 0 REFERENCES words (id),
        stream INTEGER NOT NULL DEFAULT 0,
        client INTEGER REFERENCES words (id),
        tags INTEGER REFERENCES words (id),
        ending INTEGER REFERENCES words (id),
        error INTEGER REFERENCES words (id),
        attempts INTEGER NOT NULL DEFAULT 0,
        hold_nanousd INTEGER NOT NULL DEFAULT 0,
        cost_nanousd INTEGER NOT NULL DEFAULT 0,
        overrun_nanousd INTEGER NOT NULL DEFAULT 0,
        estimated INTEGER NOT NULL DEFAULT 0,
        {_TOKEN_COLUMNS}
    ) STRICT""",
    # By the milliseconds that a UUIDv7 begins with: half the size of an index of whole ids, 8 %
    # of the file. Whoever looks an id up names this expression.
    f"CREATE INDEX calls_id ON calls ({ID_HEAD})",
    # Few rows at any time: recovery finds what a killed daemon left without reading all calls.
    "CREATE INDEX calls_open ON calls (seq) WHERE state = 1",
    """CREATE TABLE usage_shapes (
        id INTEGER PRIMARY KEY,
        shape TEXT NOT NULL UNIQUE
    ) STRICT""",
    f"""CREATE TABLE attempts (
        call INTEGER NOT NULL REFERENCES calls (seq),
        number INTEGER NOT NULL,
        account INTEGER NOT NULL DEFAULT 0 REFERENCES accounts (id),
        price INTEGER REFERENCES prices (number),
        started_ms INTEGER NOT NULL DEFAULT 0,
        total_ms INTEGER,
        first_ms INTEGER,
        status INTEGER,
        ending INTEGER REFERENCES words (id),
        error INTEGER REFERENCES words (id),
        hold_nanousd INTEGER NOT NULL DEFAULT 0,
        cost_nanousd INTEGER NOT NULL DEFAULT 0,
        overrun_nanousd INTEGER NOT NULL DEFAULT 0,
        estimated INTEGER NOT NULL DEFAULT 0,
        {_TOKEN_COLUMNS},
        upstream_id TEXT,
        usage_shape INTEGER REFERENCES usage_shapes (id),
        usage_numbers TEXT,
        PRIMARY KEY (call, number)
    ) STRICT, WITHOUT ROWID""",
    f"""CREATE TABLE spend_quarter (
        quarter_ms INTEGER NOT NULL,
        account INTEGER NOT NULL REFERENCES accounts (id),
        calls INTEGER NOT NULL DEFAULT 0,
        refused INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        cost_nanousd INTEGER NOT NULL DEFAULT 0,
        overrun_nanousd INTEGER NOT NULL DEFAULT 0,
        estimated_nanousd INTEGER NOT NULL DEFAULT 0,
        unpriced INTEGER NOT NULL DEFAULT 0,
        {_TOKEN_COLUMNS},
        PRIMARY KEY (quarter_ms, account)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE audit (
        seq INTEGER PRIMARY KEY,
        at_ms INTEGER NOT NULL,
        who TEXT NOT NULL,
        what TEXT NOT NULL,
        subject TEXT NOT NULL,
        before TEXT NOT NULL,
        after TEXT NOT NULL
    ) STRICT""",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    # `probe` is what the writer writes to learn whether a broken disk is back.
    "INSERT INTO meta (name, value) VALUES ('pruned_before_ms', 0), ('probe', 0)",
)


def _local(column: str) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%f', ({column}) / 1000.0, 'unixepoch', 'localtime')"


_STATE = " ".join(f"WHEN {number} THEN '{state}'" for number, state in enumerate(STATES))
# What a later version of the ledger added to a view stands where `more` is.
_CALLS_READABLE = f"""CREATE VIEW calls_readable AS SELECT
        c.seq, c.id, {_local("c.admitted_ms")} AS admitted_local,
        CASE c.state {_STATE} END AS state, coalesce(ending.word, '') AS ending,
        a.key, a.user, a.team, a.project, a.route, a.provider, a.model,
        requested.word AS requested, dialect.word AS dialect, endpoint.word AS endpoint,
        c.stream, {{tokens}},
        c.cost_nanousd / 1e9 AS cost_usd, c.cost_nanousd, c.overrun_nanousd, c.hold_nanousd,
        c.estimated, c.attempts, c.first_ms, c.total_ms, c.admitted_ms,
        c.admitted_ms + c.total_ms AS ended_ms, coalesce(error.word, '') AS error,
        coalesce(client.word, '') AS client, coalesce(tags.word, '') AS tags{{more}}
    FROM calls c
        LEFT JOIN accounts a ON a.id = c.account
        LEFT JOIN words ending ON ending.id = c.ending
        LEFT JOIN words requested ON requested.id = c.requested
        LEFT JOIN words dialect ON dialect.id = c.dialect
        LEFT JOIN words endpoint ON endpoint.id = c.endpoint
        LEFT JOIN words error ON error.id = c.error
        LEFT JOIN words client ON client.id = c.client
        LEFT JOIN words tags ON tags.id = c.tags{{joins}}"""  # noqa: S608 - our own names
_ATTEMPTS_READABLE = f"""CREATE VIEW attempts_readable AS SELECT
        c.id AS call_id, t.call AS call_seq, t.number,
        {_local("t.started_ms")} AS started_local, a.provider, a.model, t.status,
        coalesce(ending.word, '') AS ending, {{tokens}},
        t.cost_nanousd / 1e9 AS cost_usd, t.cost_nanousd, t.overrun_nanousd, t.hold_nanousd,
        t.estimated, t.first_ms, t.total_ms, t.started_ms,
        t.started_ms + t.total_ms AS ended_ms, coalesce(error.word, '') AS error,
        coalesce(t.upstream_id, '') AS upstream_id, p.id AS price_id, p.price,
        s.shape AS usage_shape, t.usage_numbers{{more}}
    FROM attempts t
        LEFT JOIN calls c ON c.seq = t.call
        LEFT JOIN accounts a ON a.id = t.account
        LEFT JOIN prices p ON p.number = t.price
        LEFT JOIN words ending ON ending.id = t.ending
        LEFT JOIN words error ON error.id = t.error
        LEFT JOIN usage_shapes s ON s.id = t.usage_shape"""  # noqa: S608
_SPEND_READABLE = f"""CREATE VIEW spend_readable AS SELECT
        {_local("s.quarter_ms")} AS quarter_local, s.quarter_ms,
        a.key, a.user, a.team, a.project, a.route, a.provider, a.model,
        s.calls, s.refused, s.attempts, s.unpriced, {{tokens}},
        s.cost_nanousd / 1e9 AS cost_usd, s.estimated_nanousd / 1e9 AS estimated_usd,
        s.cost_nanousd, s.overrun_nanousd, s.estimated_nanousd
    FROM spend_quarter s LEFT JOIN accounts a ON a.id = s.account"""  # noqa: S608


def _of(table: str, tokens: tuple[str, ...] = _TOKENS_1) -> str:
    return ", ".join(f"{table}.{name}" for name in tokens)


_VIEWS = (
    _CALLS_READABLE.format(tokens=_of("c"), more="", joins=""),
    _ATTEMPTS_READABLE.format(tokens=_of("t"), more=""),
    _SPEND_READABLE.format(tokens=_of("s")),
    """CREATE VIEW prices_readable AS SELECT
        id, source, input_usd AS input_usd_per_million, output_usd AS output_usd_per_million, price
    FROM prices""",
    f"""CREATE VIEW audit_readable AS SELECT
        {_local("at_ms")} AS at_local, who, what, subject, before, after
    FROM audit""",  # noqa: S608
)
# Columns that version 3 added to `calls` and `attempts`. NULL and 0 at a row's end take a byte.
_ADDED = (
    "ALTER TABLE calls ADD COLUMN queue_ms INTEGER",
    "ALTER TABLE calls ADD COLUMN dropped INTEGER REFERENCES words (id)",
    "ALTER TABLE calls ADD COLUMN session INTEGER REFERENCES words (id)",
    # 0: a call of this gateway; others are numbered by who imports them.
    "ALTER TABLE calls ADD COLUMN source INTEGER NOT NULL DEFAULT 0",
    # A JSON list of "name=value": the tags whose spending `spend_tag` adds up, and no others.
    "ALTER TABLE calls ADD COLUMN budget_tags INTEGER REFERENCES words (id)",
    "ALTER TABLE attempts ADD COLUMN gpu_ms INTEGER",
)
_TABLES_3 = (
    f"""CREATE TABLE spend_tag (
        quarter_ms INTEGER NOT NULL,
        tag INTEGER NOT NULL REFERENCES words (id),
        account INTEGER NOT NULL REFERENCES accounts (id),
        calls INTEGER NOT NULL DEFAULT 0,
        refused INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        cost_nanousd INTEGER NOT NULL DEFAULT 0,
        overrun_nanousd INTEGER NOT NULL DEFAULT 0,
        estimated_nanousd INTEGER NOT NULL DEFAULT 0,
        unpriced INTEGER NOT NULL DEFAULT 0,
        {_TOKEN_COLUMNS},
        PRIMARY KEY (quarter_ms, tag, account)
    ) STRICT, WITHOUT ROWID""",
    "CREATE TABLE alerts (id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    # `size` is what the body had; `body` may hold less of it, where it was cut.
    """CREATE TABLE bodies (
        call INTEGER NOT NULL REFERENCES calls (seq),
        kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 1),
        at_ms INTEGER NOT NULL,
        encoding INTEGER NOT NULL CHECK (encoding BETWEEN 0 AND 1),
        size INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (call, kind)
    ) STRICT""",
    "CREATE INDEX bodies_at ON bodies (at_ms)",
    # As `calls_open`: what a killed daemon left waiting.
    "CREATE INDEX calls_queued ON calls (seq) WHERE state = 4",
)
_CALLS_3 = (
    ", c.queue_ms, coalesce(session.word, '') AS session,"
    " coalesce(dropped.word, '') AS dropped, c.source,"
    " coalesce(budget_tags.word, '') AS budget_tags"
)
_JOINS_3 = (
    " LEFT JOIN words session ON session.id = c.session"
    " LEFT JOIN words dropped ON dropped.id = c.dropped"
    " LEFT JOIN words budget_tags ON budget_tags.id = c.budget_tags"
)
_SPEND_TAG_READABLE = f"""CREATE VIEW spend_tag_readable AS SELECT
        {_local("s.quarter_ms")} AS quarter_local, s.quarter_ms, w.word AS tag,
        a.key, a.user, a.team, a.project, a.route, a.provider, a.model,
        s.calls, s.refused, s.attempts, s.unpriced, {{tokens}},
        s.cost_nanousd / 1e9 AS cost_usd, s.estimated_nanousd / 1e9 AS estimated_usd,
        s.cost_nanousd, s.overrun_nanousd, s.estimated_nanousd
    FROM spend_tag s
        LEFT JOIN words w ON w.id = s.tag
        LEFT JOIN accounts a ON a.id = s.account"""  # noqa: S608
_VIEWS_3 = (
    _CALLS_READABLE.format(tokens=_of("c"), more=_CALLS_3, joins=_JOINS_3),
    _ATTEMPTS_READABLE.format(tokens=_of("t"), more=", t.gpu_ms"),
    _SPEND_TAG_READABLE.format(tokens=_of("s")),
    f"""CREATE VIEW alerts_readable AS SELECT id, {_local("at_ms")} AS at_local, at_ms
    FROM alerts""",  # noqa: S608
    f"""CREATE VIEW bodies_readable AS SELECT
        c.id AS call_id, b.call AS call_seq,
        CASE b.kind WHEN 0 THEN 'request' ELSE 'answer' END AS kind,
        {_local("b.at_ms")} AS at_local, b.at_ms,
        CASE b.encoding WHEN 0 THEN 'plain' ELSE 'zlib' END AS encoding,
        b.size, length(b.body) AS kept_bytes
    FROM bodies b LEFT JOIN calls c ON c.seq = b.call""",  # noqa: S608
)


_COUNTED = ("calls", "attempts", "spend_quarter", "spend_tag")
_ADDED_4 = (
    *(
        f"ALTER TABLE {table} ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0"
        for table in _COUNTED
        for name in _TOKENS_4
    ),
    # What the provider said that the attempt cost; NULL where it says no such thing.
    "ALTER TABLE attempts ADD COLUMN reported_nanousd INTEGER",
)
_VIEWS_4 = (
    _CALLS_READABLE.format(tokens=_of("c", TOKENS), more=_CALLS_3, joins=_JOINS_3),
    _ATTEMPTS_READABLE.format(
        tokens=_of("t", TOKENS), more=", t.gpu_ms, t.reported_nanousd, p.source AS price_source"
    ),
    _SPEND_READABLE.format(tokens=_of("s", TOKENS)),
    _SPEND_TAG_READABLE.format(tokens=_of("s", TOKENS)),
)


# `idle_nanousd` is what the idle time would have cost by the price that was in force; it is in no
# call's cost.
_LOCAL_TIME = (
    """CREATE TABLE local_time (
        quarter_ms INTEGER NOT NULL,
        model TEXT NOT NULL,
        busy_ms INTEGER NOT NULL DEFAULT 0,
        idle_ms INTEGER NOT NULL DEFAULT 0,
        idle_nanousd INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (quarter_ms, model)
    ) STRICT, WITHOUT ROWID""",
    f"""CREATE VIEW local_time_readable AS SELECT
        {_local("quarter_ms")} AS quarter_local, quarter_ms, model,
        busy_ms / 1e3 AS busy_s, idle_ms / 1e3 AS idle_s, idle_nanousd / 1e9 AS idle_usd
    FROM local_time""",  # noqa: S608
)


# What the roll-ups of version 6 count and add up, `saved_nanousd` apart.
ROLLED_UP_6 = (
    *("calls", "refused", "attempts", "cost_nanousd", "overrun_nanousd", "estimated_nanousd"),
    *("unpriced", *TOKENS),
)


def m001_tables(db: Database) -> None:
    """Make the tables."""
    for statement in (f"PRAGMA application_id = {APPLICATION_ID}", *_TABLES):
        db.execute(statement)
    db.execute("PRAGMA user_version = 1")


def m002_views(db: Database) -> None:
    """Make the views for people."""
    for statement in _VIEWS:
        db.execute(statement)
    db.execute("PRAGMA user_version = 2")


def m003_tags_alerts_bodies(db: Database) -> None:
    """Add spending by tag, alerts that were given, prompts and replies, and a call's queue."""
    for view in ("calls_readable", "attempts_readable"):
        db.execute(f"DROP VIEW {view}")
    for statement in (*_ADDED, *_TABLES_3, *_VIEWS_3):
        db.execute(statement)
    db.execute("PRAGMA user_version = 3")


def m004_images_searches_reported(db: Database) -> None:
    """Add tokens of images, paid searches, and what a provider itself says an attempt cost."""
    for view in ("calls_readable", "attempts_readable", "spend_readable", "spend_tag_readable"):
        db.execute(f"DROP VIEW {view}")
    for statement in (*_ADDED_4, *_VIEWS_4):
        db.execute(statement)
    db.execute("PRAGMA user_version = 4")


def m005_local_time(db: Database) -> None:
    """Add how long the models of this box were at work, and how long in memory without work."""
    for statement in _LOCAL_TIME:
        db.execute(statement)
    db.execute("PRAGMA user_version = 5")


def m006_savings_labels_imports(db: Database) -> None:
    """Add what discounts save, spending by any tag and session, and use that was imported."""
    schema_6.apply(db, ROLLED_UP_6)
    db.execute("PRAGMA user_version = 6")


def m007_provider_key(db: Database) -> None:
    """Add where the key is kept that an attempt was sent with, of a provider that has several."""
    view = "attempts_readable"
    (text,) = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (view,)).fetchone()
    place = "FROM attempts t"
    column = f", coalesce(provider_key.word, '') AS provider_key {place}"
    join = " LEFT JOIN words provider_key ON provider_key.id = t.provider_key"
    for statement in (
        "ALTER TABLE attempts ADD COLUMN provider_key INTEGER REFERENCES words (id)",
        f"DROP VIEW {view}",
        text.replace(place, column + join, 1),
    ):
        db.execute(statement)
    db.execute("PRAGMA user_version = 7")


def m008_responses(db: Database) -> None:
    """Add answers that are kept, so that later calls can build on them."""
    schema_8.apply(db, _local("at_ms"))
    db.execute("PRAGMA user_version = 8")


def m009_repeated(db: Database) -> None:
    """Add how many more refused calls, just like it, a refused call's row stands for."""
    schema_9.apply(db)
    db.execute("PRAGMA user_version = 9")


_MIGRATIONS = (
    m001_tables,
    m002_views,
    m003_tags_alerts_bodies,
    m004_images_searches_reported,
    m005_local_time,
    m006_savings_labels_imports,
    m007_provider_key,
    m008_responses,
    m009_repeated,
)


def migrate(db: Connection, path: Path, *, to: int = VERSION) -> None:
    """Bring the ledger to version `to`; a file that already has rows is backed up first.

    The backup stands beside it, as `ledger.db.v1.bak` for version 1.

    Raises:
        LedgerInvalid: The file is a newer Tollway's, or another program's.
        LedgerUnavailable: This Python's SQLite is too old.
        sqlite3.Error, OSError: It cannot be read or written, or there is no room for the backup.
    """
    release.require()
    found = version(db, path)
    if found >= to:
        return
    # 0.16 s of import, so only where a migration is due.
    from sqlite_utils import Database, Migrations  # noqa: PLC0415

    if found:
        upgrade.back_up(db, path.with_name(f"{path.name}.v{found}.bak"))
    steps = Migrations("tollway")
    for step in _MIGRATIONS[:to]:
        steps()(step)
    wrapped = Database(db, execute_plugins=False)
    with wrapped.atomic():  # all or nothing: a file with half the steps would be nobody's
        steps.apply(wrapped)


def version(db: Connection, path: Path) -> int:
    """Return the ledger's version, 0 for an empty file.

    Raises:
        LedgerInvalid: The file is a newer Tollway's, or another program's.
    """
    (mark,) = db.execute("PRAGMA application_id").fetchone()
    (found,) = db.execute("PRAGMA user_version").fetchone()
    if mark != APPLICATION_ID:
        if not found and not db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            return 0
        raise LedgerInvalid(
            f"`{path}` is an SQLite file, but not a Tollway ledger",
            hint="Set `ledger.path` in gateway.toml to a file of its own",
        )
    if found > VERSION:
        raise LedgerInvalid(
            f"The ledger `{path}` was written by a newer Tollway (version {found} of the file;"
            f" this program knows up to {VERSION})",
            hint="Upgrade Tollway, or set `ledger.path` in gateway.toml to another file",
        )
    return int(found)


@contextmanager
def transaction(db: Connection) -> Iterator[None]:
    """Commit what the block writes, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:  # whatever it was, half a transaction must not stay
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
