"""What a provider's refusal of a call means: what its client is told, and what to mend."""

from typing import TYPE_CHECKING

from tollway.daemon.gate.attempt import Attempt
from tollway.providers.dialects.error_words import words_in
from tollway.providers.errors import UpstreamRefused
from tollway.providers.headers import to_client
from tollway.providers.output_limits import Lower, lower_limit
from tollway.providers.refusals import (
    NO_ROOM,
    Verdict,
    is_no_such_model,
    is_no_such_path,
    is_over_rate,
    is_page,
    is_spoilt,
)
from tollway.providers.transport import Answer

if TYPE_CHECKING:
    from tollway.daemon.gate.send import Exchange


_FORBIDDEN = 403
# Of an account without money: to clients they say that they themselves may not, or that they erred.
_UNPAID = {403: 402, 412: 402}


class UpstreamDenied(UpstreamRefused):
    """The provider refused the gateway's own credential: not the caller's fault, nor its 401."""

    code = "upstream_auth"


def refused(
    exchange: "Exchange", attempt: Attempt, answer: Answer, said: bytes, of_key: Verdict
) -> UpstreamRefused:
    """Return the error for an answer with an error status.

    Args:
        exchange: The call's.
        attempt: The try that was refused.
        answer: Its status and headers.
        said: Its body.
        of_key: What it says of the credential.
    """
    target, status = attempt.target, answer.status
    if of_key in ("key", "model") and not target.callers:
        what = "the gateway's credential"
        if of_key == "model":
            what += f" for `{target.model}`"
        denied = UpstreamDenied(
            f"`{target.provider}` refused {what} (HTTP {status})",
            hint="The gateway's owner can check it with `tollway doctor`",
            status=502,
        )
        denied.upstream_status, denied.verdict = status, of_key
        return denied
    if status < 400:
        return UpstreamRefused(
            f"`{target.provider}` answered with a redirect (HTTP {status}), which is not followed",
            hint="Correct the provider's `base_url`",
            status=502,
        )
    if target.worker:  # no provider: it is a model of this box that says so
        return UpstreamRefused(
            f"The model `{target.name}` cannot do that: {words_in(said)}", status=status, body=said
        )
    error = attempt.version.dialect.read_error(status, said)
    if is_no_such_path(status, said):
        error.hint = _elsewhere(exchange, attempt)
    error.headers = exchange.gate.masked(to_client(answer.headers, callers=target.callers))
    error.verdict = of_key
    if is_no_such_model(status, said):
        error.status = 404
    elif is_spoilt(status, said):
        error.status = 502  # upon which clients ask again
    elif status == NO_ROOM and is_over_rate(status, said):
        error.status = 503  # the same
    elif of_key == "unpaid" and not target.callers:
        error.status = _UNPAID.get(status, status)
    elif status == _FORBIDDEN and is_page(said) and not target.callers:
        error.status = 502  # upon 403 clients ask for a login
        error.hint = "A firewall before the provider says so, of what is in the prompt or of the"
        error.hint += " gateway's address"
    return error


def _elsewhere(exchange: "Exchange", attempt: Attempt) -> str:
    """Return what may be wrong with an address that somebody wrote; "" where nobody did."""
    target = attempt.target
    provider = exchange.gate.config.providers.get(target.provider)
    if provider is None or provider.base_url is None:
        return ""
    path = attempt.version.path(target).partition("?")[0]
    return (
        f"It has no `{path}` there: `base_url` of `[providers.{target.provider}]` in gateway.toml"
        f" may be wrong, which `tollway providers test {target.provider}` looks into"
    )


def lowered(attempt: Attempt, status: int, said: bytes) -> Lower | None:
    """Return the output limit that a provider says it takes, where it was not the client's choice.

    Who speaks a model's own API chose the limit for that model; of another one a client knows
    nothing.
    """
    version = attempt.version
    asked = attempt.worst.write_output
    if asked is None and version.said is not None:
        asked = version.call.output_limit
    return None if asked is None else lower_limit(status, said, asked)
