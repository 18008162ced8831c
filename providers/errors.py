"""The errors with words for a person, and what upstreams do wrong.

GatewayError                 anything we tell a caller; daemon.errors adds our own refusals
├── RequestInvalid           400  the caller's body is not what its endpoint takes
│   └── Untranslatable       400  the target's dialect cannot say what the request asks for
├── RequestTooLarge          413  the caller's body is over the limit
├── Unbounded                402  a field of the request can raise the bill past any hold
└── UpstreamError            the provider's side
    ├── UpstreamUnreachable  502  no connection, nothing was sent
    ├── UpstreamTimeout      504  silence for too long
    ├── UpstreamBroke        502  the connection ended or garbled before the answer was whole
    │   └── AnswerHeldUp     400  what the caller holds the answer to does not let it go on
    ├── UpstreamRefused      its  the provider answered with an error of its own
    ├── LocalModelFailed     503  a model on this box could not answer
    └── LocalModelBusy       503  a model on this box was at work on other calls for too long
"""

from typing import Literal


def sayable(text: str) -> str:
    """Return text that any answer can hold.

    Bytes of a header that are no UTF-8 come as halves of characters, which no JSON takes.
    """
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class GatewayError(Exception):
    """A refusal or failure with words for the person who meets it.

    `message` says what happened and `hint` what to do next. Both are shown as they stand, to
    HTTP clients and in the terminal, so neither may hold a secret or a prompt. `code` and
    `status` (HTTP) are for programs; `retry_after_s` is set only where waiting helps, and `again`
    is False where the same call fails until a person changes something.
    """

    status = 500
    code = "internal_error"
    whose: Literal["gateway", "provider"] = "gateway"
    retry_after_s: float | None = None
    again = True

    def __init__(self, message: str, *, hint: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message = sayable(message)
        self.hint = sayable(hint)
        self.param = param


class RequestInvalid(GatewayError):
    """The body is not what its endpoint takes; `param` names the field."""

    status = 400
    code = "invalid_request"


class Untranslatable(RequestInvalid):
    """The target speaks another dialect, which cannot say a part of the request.

    Dropping it would change what the answer means, so it is refused; another target may do.
    """

    code = "untranslatable"


class RequestTooLarge(GatewayError):
    """The body is over `server.max_body`, or more than the memory for bodies."""

    status = 413
    code = "request_too_large"


class Unbounded(GatewayError):
    """A field of the request can raise the bill past any hold, and a hard budget applies."""

    status = 402  # not 400: the same request is fine where no hard budget applies
    code = "unbounded"


class UpstreamError(GatewayError):
    """The provider failed. `sent` says whether it may have begun to work, and so may bill.

    `death` is set where it was a process of this box that ended: while it was being loaded, with
    this call and others at work, or with this call alone.
    """

    status = 502
    code = "upstream_error"
    whose = "provider"
    death: Literal["", "loading", "among", "alone"] = ""

    def __init__(self, message: str, *, hint: str = "", sent: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.sent = sent


class UpstreamUnreachable(UpstreamError):
    """No connection could be made: DNS, refused, TLS, or a proxy. Nothing was sent."""

    code = "upstream_unreachable"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, sent=False)


class UpstreamTimeout(UpstreamError):
    """The provider was silent for too long; `phase` says when."""

    status = 504
    code = "upstream_timeout"

    def __init__(
        self, message: str, *, phase: Literal["connect", "first", "idle"], hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint, sent=phase != "connect")
        self.phase = phase


class UpstreamBroke(UpstreamError):
    """The connection was reset, cut or garbled after the request had been sent."""

    code = "upstream_broke"


class UpstreamGaveUp(UpstreamBroke):
    """The provider says that it broke its answer off, or that what it made is no answer."""


class AnswerHeldUp(UpstreamBroke):
    """What the caller holds an answer to does not let it go on: neither the model's fault nor ours.

    What was made of it is billed.
    """

    status = 400
    code = "answer_held_up"
    again = False


class UpstreamRefused(UpstreamError):
    """The provider answered with an error status of its own; `body` is what it said.

    Billed nothing: no provider bills a refusal.
    """

    code = "upstream_refused"

    def __init__(self, message: str, *, status: int, body: bytes = b"", hint: str = "") -> None:
        super().__init__(message, hint=hint, sent=False)
        self.status = status
        self.upstream_status = status  # the provider's own, where the client is told another
        # What it says of the key (`refusals`), where `body` is not the provider's words any more.
        self.verdict: Literal["", "key", "model", "unpaid", "filtered"] = ""
        self.body = body
        self.headers: tuple[tuple[str, str], ...] = ()  # of the answer, fit for the client


class LocalModelFailed(UpstreamError):
    """A model on this box could not be loaded, or its worker died."""

    status = 503
    code = "local_model_failed"

    def __init__(
        self, message: str, *, hint: str = "", sent: bool = True, again: bool = True
    ) -> None:
        super().__init__(message, hint=hint, sent=sent)
        self.again = again


class LocalModelBusy(UpstreamError):
    """A model on this box answers one call after the other, and our turn did not come in time."""

    status = 503
    code = "local_model_busy"
    retry_after_s = 10.0

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, sent=False)
