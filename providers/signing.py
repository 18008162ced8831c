"""What proves to a cloud who is calling, where that is no key in a header.

A `Signer` puts its proof into each request, right before it is sent: an access token of Google's
that lasts an hour, or AWS's signature over the request itself. How such tokens are got and kept
fresh is the clouds' own libraries' work, each imported in one file and only where it is needed.
"""

import json
from importlib.util import find_spec
from typing import Protocol

import msgspec

from tollway.providers import extras
from tollway.providers.catalog import Kind, is_signed
from tollway.providers.errors import GatewayError, UpstreamError
from tollway.providers.transport import Request

# The members of a credentials file that are secrets by themselves.
_SECRETS = ("private_key", "private_key_id", "client_secret", "refresh_token")


class Signer(Protocol):
    """Proves who is calling."""

    async def sign(self, request: Request) -> Request:
        """Return a request with the proof that it needs.

        Raises:
            Unsigned: There is none to be had.
        """
        ...


class Unsigned(UpstreamError):
    """No token or signature could be made, so nothing was sent."""

    code = "upstream_auth"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, sent=False)


class NoLibrary(GatewayError):
    """A cloud's own library is not installed."""

    code = "config_invalid"


def signer_of(
    kind: Kind, secret: str | None, proxy: str | None = None, ca_file: str | None = None
) -> Signer | None:
    """Return what signs the requests to a provider, None where a header does.

    Args:
        kind: The provider's.
        secret: What gateway.toml names as its key, if anything; else what the machine has.
        proxy: Through which tokens are fetched.
        ca_file: What is trusted there.

    Raises:
        NoLibrary: What makes the signature is not installed.
    """
    if not is_signed(kind, secret):
        return None
    if kind.auth == "google":
        _require("google.auth", "vertex", kind)
        from tollway.providers.google_tokens import GoogleTokens  # noqa: PLC0415 - an extra

        return GoogleTokens(secret, proxy=proxy, ca_file=ca_file)
    _require("botocore", "bedrock", kind)
    from tollway.providers.aws_signing import AwsSigner  # noqa: PLC0415 - an extra

    return AwsSigner(secret)


def _require(module: str, extra: str, kind: Kind) -> None:
    try:
        found = find_spec(module)
    except ModuleNotFoundError:  # the package that it would stand in
        found = None
    if found is None:
        raise NoLibrary(
            f"A provider of the kind `{kind.name}` is to be called without a key of its own, and"
            f" `{module}`, which would prove who is calling, is not installed",
            hint=f"`{extras.install(extra)}`, or name a key as its `api_key`",
        )


def within(secret: str) -> tuple[str, ...]:
    """Return the secrets within a credential, so that none of them is ever shown by itself."""
    if secret.startswith("{"):
        try:
            said = json.loads(secret)
        except ValueError:
            return ()
        parts = [said.get(name) for name in _SECRETS]
        return tuple(part for part in parts if isinstance(part, str))
    return tuple(secret.split(":")[1:])


def signed(request: Request, headers: tuple[tuple[str, str], ...]) -> Request:
    """Return a request with further headers in front."""
    return msgspec.structs.replace(request, headers=headers + request.headers)
