"""Signatures of AWS's (SigV4): the only file that imports botocore.

AWS's own library finds credentials wherever AWS keeps them (environment, profiles, single
sign-on, the metadata of a machine) and renews them. That may block, so it happens in a thread; a
signature itself takes some tenths of a millisecond.
"""

import asyncio
import re
from urllib.parse import urlsplit

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials, RefreshableCredentials
from botocore.exceptions import BotoCoreError

from tollway.providers.signing import Unsigned, signed
from tollway.providers.transport import Request

# "bedrock-runtime.eu-west-1.amazonaws.com", with "-fips", or within a private network's name.
_REGION = re.compile(r"(?:^|\.)bedrock(?:-runtime)?(?:-fips)?\.([a-z]{2}(?:-[a-z]+)+-\d)\.")
_SERVICE = "bedrock"
# Hashing more than this takes longer than a call may keep the others waiting.
_MOST_AT_ONCE = 1024 * 1024


class AwsSigner:
    """Signs requests with the credentials of a pair of keys, or with what the machine has."""

    def __init__(self, secret: str | None) -> None:
        """Take "ID:SECRET" or "ID:SECRET:TOKEN"; None for the machine's own credentials."""
        self._turn = asyncio.Lock()
        self._session = botocore.session.Session() if secret is None else None
        self._credentials = None if secret is None else Credentials(*secret.split(":"))
        self._region = ""

    async def sign(self, request: Request) -> Request:
        """Return a request with a signature.

        Raises:
            Unsigned: There are no credentials, or no region.
        """
        found = self._credentials
        if found is None or _is_old(found) or not self._knows_region(request.url):
            async with self._turn:
                frozen, region = await asyncio.to_thread(self._ready, request.url)
        else:
            frozen, region = found.get_frozen_credentials(), self._at(request.url)
        if len(request.body) > _MOST_AT_ONCE:
            return await asyncio.to_thread(_sign, request, frozen, region)
        return _sign(request, frozen, region)

    def _at(self, url: str) -> str:
        """Return the region that a URL names, else the machine's own; "" for none known yet."""
        named = _REGION.search(urlsplit(url).hostname or "")
        return named[1] if named else self._region

    def _knows_region(self, url: str) -> bool:
        return bool(self._at(url))

    def _ready(self, url: str) -> tuple[ReadOnlyCredentials, str]:
        """Return credentials that hold, and the region; it may ask AWS."""
        session = self._session or botocore.session.Session()
        try:
            if not self._at(url):
                self._region = str(session.get_config_variable("region") or "")
            found = self._credentials or session.get_credentials()
            frozen = found.get_frozen_credentials() if found is not None else None
        except BotoCoreError as fault:
            raise Unsigned(
                f"AWS gives no credentials for this machine ({type(fault).__name__})",
                hint="`aws sts get-caller-identity` shows what is wrong with them",
            ) from fault
        if found is None or frozen is None:
            raise Unsigned(
                "This machine has no credentials for AWS",
                hint="Set AWS_PROFILE where the daemon is started, or name a Bedrock API key as"
                " the provider's `api_key`",
            )
        if not self._at(url):
            raise Unsigned(
                "The provider's `base_url` names no region, nor does this machine's configuration",
                hint="Write it as https://bedrock-runtime.REGION.amazonaws.com",
            )
        self._credentials = found
        return frozen, self._at(url)


def _is_old(found: Credentials) -> bool:
    return isinstance(found, RefreshableCredentials) and found.refresh_needed()


def _sign(request: Request, credentials: ReadOnlyCredentials, region: str) -> Request:
    """Return a request signed over its URL, its body and its content type."""
    kept = {name: value for name, value in request.headers if name == "content-type"}
    asked = AWSRequest(request.method, request.url, headers=kept, data=request.body)
    SigV4Auth(credentials, _SERVICE, region).add_auth(asked)
    ours = tuple(
        (name.lower(), str(value))
        for name, value in asked.headers.items()
        if name.lower() == "authorization" or name.lower().startswith("x-amz-")
    )
    return signed(request, ours)
