"""What tests of a transport say often."""

from tollway.providers.transport import Answer, Request, Timeouts

PATIENT = Timeouts(connect_s=30.0, first_s=30.0, idle_s=30.0)  # no test gets that far


def ask(
    url: str, *headers: tuple[str, str], body: bytes = b"{}", timeouts: Timeouts = PATIENT
) -> Request:
    """Return a POST."""
    return Request(url=url, headers=headers, body=body, timeouts=timeouts)


async def whole(answer: Answer) -> bytes:
    """Return an answer's body, to its end."""
    return b"".join([piece async for piece in answer.chunks()])
