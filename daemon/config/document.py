"""Keeping a person's comments with the tables they stand above, while tomlkit edits.

tomlkit counts the comment above a table to the table before it: a key added there would come
between the comment and its table, and removing that table would remove the comment. Here the
comments move to the tables that they stand above, where nothing comes between.
"""

from collections.abc import Iterator, Mapping, Sequence

import tomlkit
from tomlkit import TOMLDocument
from tomlkit.container import OutOfOrderTableProxy
from tomlkit.items import AoT, Array, Comment, InlineTable, Item, Key, Null, Table, Whitespace

AnyTable = Table | InlineTable | OutOfOrderTableProxy
Body = list[tuple[Key | None, Item]]
# By the table's id: the table itself, kept so that no other gets its id, and what stood above;
# None where it had no head of its own.
Above = dict[int, tuple[Table, str | None]]

_LONG = 90  # of a list, that it takes a line for each of its values


def table(document: TOMLDocument, *names: str) -> AnyTable:
    """Return a table of the document, made where it is missing: `table(document, "keys", "ci")`.

    One that stands in several places, as `a.b = 1` and `a.c = 2` do, is written to as any other.

    Raises:
        KeyError: One of the names is there and is no table.
    """
    found: TOMLDocument | AnyTable = document
    for number, name in enumerate(names, start=1):
        if name not in found:
            if isinstance(found, InlineTable):
                found[name] = tomlkit.inline_table()
            else:
                found[name] = tomlkit.table(is_super_table=number < len(names))
        inner = found[name]
        if not isinstance(inner, AnyTable):
            raise KeyError(name)
        found = inner
    assert not isinstance(found, TOMLDocument)  # noqa: S101
    return found


def in_line(values: Mapping[str, object]) -> InlineTable:
    """Return values as a table in one line: { rpm = 60 }."""
    made = tomlkit.inline_table()
    made.update(values)
    return made


def refill(around: AnyTable, key: str, values: Mapping[str, object]) -> None:
    """Make a table within another say `values`; one that is there keeps its form and comments."""
    there = around.get(key)
    if not isinstance(there, AnyTable):
        around[key] = in_line(values)
        return
    for name in [one for one in there if one not in values]:
        del there[name]
    for name, value in values.items():
        if there.get(name) != value:
            there[name] = value


def in_lines(values: Sequence[object]) -> Array:
    """Return a list whose tables stand within it, a line each where one line would be long.

    As `[[a.b]]` it would lose its place and comment, and under `a.b = ` could not be written.
    """
    made = tomlkit.array()
    for one in values:
        made.append(in_line(one) if isinstance(one, Mapping) else one)
    return made.multiline(len(made.as_string()) > _LONG)


def attach_comments(document: TOMLDocument) -> Above:
    """Take the comments and blank lines above each table out; return them, for `space_out`."""
    pending: list[tuple[Body, int]] = []
    seen: Above = {}
    for step in _walk(document):
        if isinstance(step, Table):
            above = ""
            if not step.is_super_table():
                above = "".join(body[at][1].as_string() for body, at in pending)
            # Not into the table's own indent yet: tomlkit indents new keys by the blanks in it.
            seen[id(step)] = (step, None if step.is_super_table() else above)
            if step.is_super_table():
                continue
            for body, at in pending:
                body[at] = (None, Null())
            pending = []
        else:
            body, at = step
            key, item = body[at]
            if body is document.body:
                pass  # what stands above the first table is about the whole file
            elif key is None and isinstance(item, Whitespace | Comment):
                pending.append((body, at))
            elif not isinstance(item, Null):
                pending = []
    _end_with(document, pending)
    return seen


def _end_with(document: TOMLDocument, pending: list[tuple[Body, int]]) -> None:
    """Have what ends a file apart from its last table's keys be the file's, not that table's."""
    blank = [isinstance(body[at][1], Whitespace) for body, at in pending]
    apart = pending[blank.index(True) :] if True in blank else []
    if all(isinstance(body[at][1], Whitespace) for body, at in apart):
        return
    for body, at in apart:
        document.body.append(body[at])
        body[at] = (None, Null())


def space_out(document: TOMLDocument, old: Above) -> None:
    """Put back what stood above each table of `old`, and a blank line above each other one.

    But for a table that is the file's first. The comment right above a table that is gone, is
    gone; what stood apart above that stays.
    """
    old = _without_gone(document, old)
    parted = True  # whether what came last is a blank line, or nothing did
    for step in _walk(document):
        if isinstance(step, Table) and step.is_super_table() and not _has_values(step):
            if id(step) not in old:
                step.trivia.indent = ""  # written, though the table itself is not
        elif isinstance(step, Table):
            above = old[id(step)][1] if id(step) in old else None
            if above is not None:
                # tomlkit's own blank line belongs above the comment, not below it.
                own = step.trivia.indent
                blank = "\n" if own.startswith("\n") and not above.startswith("\n") else ""
                step.trivia.indent = blank + above + own.lstrip("\n")
            elif not (parted or step.trivia.indent.startswith("\n")):
                step.trivia.indent = "\n" + step.trivia.indent
            parted = False
        else:
            body, at = step
            item = body[at][1]
            if not isinstance(item, Null):
                parted = isinstance(item, Whitespace) and "\n" in item.s


def _without_gone(document: TOMLDocument, old: Above) -> Above:
    """Return what stands above the tables that are left: what the others had apart, too."""
    left = {id(step) for step in _walk(document) if isinstance(step, Table)}
    kept: Above = {}
    carried = ""
    for at, (step, above) in old.items():
        if at in left:
            kept[at] = (step, above if above is None else carried + above)
            carried = carried if above is None else ""
        elif above:
            lines = above.splitlines(keepends=True)
            blank = [number for number, line in enumerate(lines) if not line.strip()]
            apart = lines[: blank[-1]] if blank else []
            carried += "".join(apart) if any(line.strip() for line in apart) else ""
    if carried:  # above what ends the file
        keyed = [number for number, (key, _) in enumerate(document.body, start=1) if key]
        document.body.insert(max(keyed, default=0), (None, Whitespace(carried)))
    return kept


def _walk(document: TOMLDocument) -> Iterator[Table | tuple[Body, int]]:
    """Yield, in the order of the text, each table's head and each entry of a body."""
    body: Body = document.body
    for at, (key, item) in enumerate(body):
        if isinstance(item, Table | AoT) and not _dotted(key):
            yield from _within(item)
        else:
            yield body, at


def _within(item: Table | AoT) -> Iterator[Table | tuple[Body, int]]:
    if isinstance(item, AoT):
        for one in item.body:
            yield from _within(one)
        return
    yield item
    body: Body = item.value.body
    for at, (key, inner) in enumerate(body):
        if isinstance(inner, Table | AoT) and not _dotted(key):
            yield from _within(inner)
        else:
            yield body, at


def _has_values(item: Table) -> bool:
    """Whether a table that had no head gets one, for something now stands in it."""
    return any(
        key is not None and not isinstance(inner, Table | AoT) for key, inner in item.value.body
    )


def _dotted(key: Key | None) -> bool:
    """Whether a table is written as `a.b = 1`, with no head of its own."""
    return key is not None and key.is_dotted()
