"""Rules of texts in JSON strings, as rules of texts that are written as they are."""

import json
import re

from tollway.providers.llamacpp.schema import quoted
from tollway.providers.llamacpp.schema_parts import SchemaRefused

_PART = re.compile(r'"((?:[^"\\]|\\.)*)"|\[((?:[^\]\\]|\\.)*)\]')


def plain_rule(rule: str) -> str:
    """Return a rule of what stands in a JSON string, as a rule of the text that it means.

    No `<` is let through: what ends such a text begins with one.

    Raises:
        SchemaRefused: The rule asks for one, or has a class with one in it.
    """
    return _PART.sub(_plain, rule)


def _plain(found: re.Match[str]) -> str:
    literal, members = found[1], found[2]
    if members is None:
        text = literal.replace('\\"', '"').replace("\\\\", "\\")
        plain = str(json.loads(f'"{text}"'))
        if "<" not in plain:
            return quoted(plain)
    elif members.startswith("^"):
        return f"[^<{members[1:]}]"
    else:
        ranges = re.findall(r"([^\\])-([^\\])", members)
        if "<" not in members and not any(low <= "<" <= high for low, high in ranges):
            return found[0]
    raise SchemaRefused("A `pattern` that allows `<` cannot be promised in this form")
