"""Numbers in sentences: "1 call", "2 calls"."""


def counted(count: int, one: str, many: str = "", *, shown: str = "") -> str:
    """Return a number with what it counts: `counted(2, "key")` is "2 keys".

    Args:
        count: How many there are.
        one: What one of them is called.
        many: What several are called, where that is more than an `s` behind it.
        shown: How the number is written, where not in full: "12.3k".
    """
    return f"{shown or f'{count:,}'} {one if count == 1 else many or f'{one}s'}"
