"""The gateway's own refusals. What providers do wrong is in `tollway.providers.errors`."""

from tollway.providers.dialects.rate_headers import Standing
from tollway.providers.errors import GatewayError, RequestInvalid


class ConfigError(GatewayError):
    """gateway.toml says something that cannot be done; the message begins with file:line."""

    status = 500
    code = "config_invalid"


class CannotStart(GatewayError):
    """The daemon cannot start: its address, its folder or its socket is not to be had."""

    status = 503
    code = "cannot_start"


class SecretError(GatewayError):
    """A secret is missing, or the place where it is kept cannot be opened."""

    status = 503
    code = "secret_unavailable"


class Unauthorized(GatewayError):
    """No key, an unknown one, or one that has ended. All look alike to the caller."""

    status = 401
    code = "invalid_api_key"


class RunNotKnown(GatewayError):
    """The key is a run's that may tell the daemon of itself in a moment."""

    status = 503  # not 401: client libraries ask again, and find that it is known
    code = "run_not_known"
    retry_after_s = 1.0


class Forbidden(GatewayError):
    """The request itself is refused, whoever asks: a foreign Host or Origin, from elsewhere."""

    status = 403
    code = "forbidden"


class ModelNotFound(GatewayError):
    """No such model for this caller: unknown and forbidden look the same."""

    status = 404
    code = "model_not_found"


class NotFound(GatewayError):
    """No such path."""

    status = 404
    code = "not_found"


class MethodNotAllowed(GatewayError):
    """The path exists, but not for this method."""

    status = 405
    code = "method_not_allowed"


class NoWebSockets(MethodNotAllowed):
    """A web socket is asked for where answers stream as events. Codex then asks so at once."""

    status = 426
    code = "upgrade_required"


class BodyStalled(GatewayError):
    """The client stopped sending its body."""

    status = 408
    code = "request_timeout"


class ContentTypeRefused(GatewayError):
    """A body that a web page could send to us without asking; only JSON is taken."""

    status = 415
    code = "unsupported_media_type"


class EncodingRefused(GatewayError):
    """A body compressed in a way that is not undone here; those in `taken` are."""

    status = 415
    code = "unsupported_content_encoding"

    def __init__(self, said: str, taken: tuple[str, ...]) -> None:
        super().__init__(
            f"A body with `Content-Encoding: {said[:100]}` is not taken",
            hint=f"Send it as it is, or in one of {', '.join(f'`{one}`' for one in taken)}",
        )
        self.taken = taken


class BudgetSpent(GatewayError):
    """A budget has no room for the call's worst case. `skips`: another target may have.

    `scope` is whose it is, such as ("tag", "run=42").
    """

    status = 402  # not 429: client libraries retry a 429, and no retry can help here
    code = "insufficient_quota"
    skips = False
    scope = ("", "")


class RateLimited(GatewayError):
    """A rate limit is full. `skips`: another target may still take the call.

    `standing` is what the reply's headers say of limits.
    """

    status = 429
    code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        hint: str,
        retry_after_s: float,
        skips: bool,
        standing: Standing | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        self.skips = skips
        self.standing = standing


class OverLimit(RequestInvalid):
    """The call may need more tokens than its limit ever admits: waiting does not help."""

    code = "over_rate_limit"

    def __init__(self, message: str, *, hint: str, skips: bool) -> None:
        super().__init__(message, hint=hint)
        self.skips = skips


class NoTurn(GatewayError):
    """A call did not get a slot of its target; another target may still take it."""

    status = 503
    code = "queue_timeout"
    skips = True


class QueueTimeout(NoTurn):
    """Its turn did not come within `server.max_wait`."""


class LineLeft(NoTurn):
    """The target began to fail while the call stood in its line, and another one is well."""

    retry_after_s = 1.0


class QueueFull(NoTurn):
    """As many calls wait as may, and its caller has the most of them."""

    status = 429
    code = "queue_full"


class ProviderSpent(BudgetSpent):
    """A provider's own budget has no room: another target may still be tried."""

    skips = True


class Unpriced(GatewayError):
    """The model has no price, and a budget applies: the call's cost could not be bounded."""

    status = 402
    code = "unpriced"


class LedgerUnavailable(GatewayError):
    """The ledger cannot be written; no call is admitted until it can."""

    status = 503
    code = "ledger_unavailable"
    retry_after_s = 5.0


class LedgerInvalid(GatewayError):
    """The ledger's file is a newer Tollway's, or another program's: waiting does not help."""

    status = 503
    code = "ledger_invalid"


class LedgerHeld(GatewayError):
    """Another daemon, or a repair, holds the ledger."""

    status = 503
    code = "ledger_held"


class Overloaded(GatewayError):
    """There is no memory for the bodies of more calls at once."""

    status = 503
    code = "overloaded"
    retry_after_s = 1.0


class Draining(GatewayError):
    """The daemon is stopping and takes no new calls."""

    status = 503
    code = "draining"
    retry_after_s = 2.0


class TooManyViewers(GatewayError):
    """More pages show the dashboard than it is for."""

    status = 503
    code = "too_many_viewers"


class DaemonUnreachable(GatewayError):
    """The command needs the running daemon, and none answers. The CLI exits with 3."""

    status = 503
    code = "daemon_unreachable"
