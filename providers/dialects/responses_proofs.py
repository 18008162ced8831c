"""What stands in `encrypted_content` of a thought of another API's model.

Clients of the Responses API give that field back, without which they leave a thought out, and a
summary; but not a text of what was thought (the Vercel AI SDK). Claude refuses its signature
with another text than it signed, and open models reason worse without what they thought: so the
text stands in there as well.
"""

import base64
import binascii
from typing import NamedTuple

from tollway.providers.conversation import UNPROVEN, carried, carry

_AND_TEXT = "+text"


class Proof(NamedTuple):
    """Whose it is ("" where nobody signed anything), of which kind, and the text beside it."""

    by: str
    kind: str
    value: str
    text: str = ""


def with_text(proof: str, text: str) -> str:
    """Return a proof that holds the text, too; OpenAI's own stays as it is."""
    found = carried(proof or UNPROVEN)
    if found is None or not text:
        return proof or UNPROVEN
    by, kind, value = found
    return carry(by, kind + _AND_TEXT, f"{base64.b64encode(text.encode()).decode()}.{value}")


def proof_in(encrypted: str) -> Proof | None:
    """Return what a proof that we wrote holds; None for any other."""
    found = carried(encrypted)
    if found is None or not found[1].endswith(_AND_TEXT):
        return Proof(*found) if found else None
    by, kind, held = found
    packed, _, value = held.partition(".")
    try:
        text = base64.b64decode(packed, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    return Proof(by, kind.removesuffix(_AND_TEXT), value, text)
