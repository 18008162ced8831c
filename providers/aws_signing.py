"""Signatures of AWS's (SigV4): the only file that imports botocore.

AWS's own library finds credentials wherever AWS keeps them (environment, profiles, single
sign-on, the metadata of a machine) and renews them. That may block, so it happens in a thread; a
signature itself takes some tenths of a millisecond.
"""

import asyncio
import re
import time
from typing import NamedTuple
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
# Credentials that end sooner are not used any more: a request may be under way for as long.
_LEAST_LEFT_S = 60.0
_PAUSE_S = 30.0  # between two tries to renew those that still hold


class AwsSigner:
    """Signs requests with the credentials of a pair of keys, or with what the machine has.

    These are asked for with the first request, and again some time before they end; all requests
    that need them meanwhile wait for the same. While the old ones hold nobody waits.
    """

    def __init__(self, secret: str | None) -> None:
        """Take "ID:SECRET" or "ID:SECRET:TOKEN"; None for the machine's own credentials."""
        self._session = botocore.session.Session() if secret is None else None
        self._credentials = None if secret is None else Credentials(*secret.split(":"))
        self._frozen = self._credentials and self._credentials.get_frozen_credentials()
        self._fetching: asyncio.Future[_Found] | None = None
        self.next_s = 0.0  # nobody asks for new ones before that while the old ones hold
        self._region = ""

    async def sign(self, request: Request) -> Request:
        """Return a request with a signature.

        Raises:
            Unsigned: There are no credentials, or no region.
        """
        found, frozen = self._credentials, self._frozen
        if found is None or frozen is None or _ends_within(found, _LEAST_LEFT_S):
            frozen = await self._fetched()
        elif _ends_within(found) and time.monotonic() >= self.next_s:
            self._fetch()
        if not self._at(request.url):
            await self._fetched()
        if not (region := self._at(request.url)):
            raise Unsigned(
                "The provider's `base_url` names no region, nor does this machine's configuration",
                hint="Write it as https://bedrock-runtime.REGION.amazonaws.com",
            )
        if len(request.body) > _MOST_AT_ONCE:
            return await asyncio.to_thread(_sign, request, frozen, region)
        return _sign(request, frozen, region)

    def _at(self, url: str) -> str:
        """Return the region that a URL names, else the machine's own; "" for none known yet."""
        named = _REGION.search(urlsplit(url).hostname or "")
        return named[1] if named else self._region

    async def _fetched(self) -> ReadOnlyCredentials:
        """Return credentials that hold, asked for just now.

        Raises:
            Unsigned: There are none.
        """
        # Who leaves lets it go on: the thread cannot be stopped, and the next one waits for it.
        try:
            return (await asyncio.shield(self._fetch())).frozen
        except Unsigned as fault:  # each call has an error of its own, which it may add to
            raise Unsigned(fault.message, hint=fault.hint) from fault

    def _fetch(self) -> "asyncio.Future[_Found]":
        if self._fetching is None:
            self._fetching = asyncio.ensure_future(asyncio.to_thread(self._found))
            self._fetching.add_done_callback(self._take)
        return self._fetching

    def _take(self, fetching: "asyncio.Future[_Found]") -> None:
        self._fetching = None
        self.next_s = time.monotonic() + _PAUSE_S
        if not fetching.cancelled() and fetching.exception() is None:
            self._credentials, self._frozen, self._region = fetching.result()

    def _found(self) -> "_Found":
        """Return credentials that hold, and the machine's region; it may ask AWS."""
        session = self._session or botocore.session.Session()
        try:
            region = self._region or str(session.get_config_variable("region") or "")
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
        return _Found(found, frozen, region)


class _Found(NamedTuple):
    credentials: Credentials
    frozen: ReadOnlyCredentials
    region: str


def _ends_within(found: Credentials, seconds: float | None = None) -> bool:
    """Whether credentials end so soon; None for the time in which AWS asks to renew them."""
    return isinstance(found, RefreshableCredentials) and found.refresh_needed(seconds)


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
