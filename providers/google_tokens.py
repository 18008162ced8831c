"""Access tokens of Google's: the only file that imports google-auth.

The library reads files of credentials of every kind (service accounts, workload identity, a
person's own login) and knows how each gets a token. It blocks, so it works in a thread.
"""

import asyncio
import json
import logging
from functools import partial
from typing import cast

import google.auth
import requests
from google.auth.credentials import Credentials, TokenState
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.auth.transport.requests import Request as Fetch
from google.oauth2 import credentials as people
from google.oauth2 import service_account

from tollway.providers.signing import Unsigned, signed
from tollway.providers.transport import Request

log = logging.getLogger("tollway.providers")

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_WITHIN_S = 20.0  # for one question to Google's token server


class GoogleTokens:
    """Keeps an access token fresh and puts it into requests.

    It is fetched with the first request, and again some minutes before it ends; all requests that
    need one meanwhile wait for the same.
    """

    def __init__(
        self, secret: str | None, *, proxy: str | None = None, ca_file: str | None = None
    ) -> None:
        """Take a credentials file's text, or None for the machine's own credentials."""
        self._secret = secret
        self._proxy = proxy
        self._ca_file = ca_file
        self._fetching: asyncio.Future[Credentials] | None = None
        self._credentials: Credentials | None = None

    async def sign(self, request: Request) -> Request:
        """Return a request with an access token.

        Raises:
            Unsigned: None could be had.
        """
        found = self._credentials
        if found is None or found.token_state is not TokenState.FRESH:
            if self._fetching is None:
                self._fetching = asyncio.ensure_future(asyncio.to_thread(self._refreshed))
                self._fetching.add_done_callback(self._fetched)
            # Who leaves lets it go on: the thread cannot be stopped, and the next one waits for it.
            try:
                found = await asyncio.shield(self._fetching)
            except Unsigned as fault:  # each call has an error of its own, which it may add to
                raise Unsigned(fault.message, hint=fault.hint) from fault
        headers: dict[str, str] = {}
        found.apply(headers)
        return signed(request, tuple((name.lower(), value) for name, value in headers.items()))

    def _fetched(self, fetching: "asyncio.Future[Credentials]") -> None:
        self._fetching = None
        if not fetching.cancelled() and fetching.exception() is None:
            self._credentials = fetching.result()

    def _refreshed(self) -> Credentials:
        """Return credentials with a fresh token, or with one that is still good."""
        found = self._credentials
        try:
            with requests.Session() as session:
                session.verify = self._ca_file or True
                if self._proxy:
                    session.proxies = {"http": self._proxy, "https": self._proxy}
                fetch = cast(Fetch, partial(Fetch(session), timeout=_WITHIN_S))
                if found is None:
                    found = self._found(fetch)
                found.refresh(fetch)
        except TransportError as fault:
            if found is not None and found.token_state is TokenState.STALE:
                log.warning("Google's token server cannot be reached; the old token still holds")
                return found
            raise Unsigned(
                "Google's token server cannot be reached, so that no access token could be had",
                hint="See that this machine may reach it, or that the provider's `proxy` does",
            ) from fault
        except DefaultCredentialsError as fault:
            raise Unsigned(
                "This machine has no credentials for Google Cloud"
                if self._secret is None
                else "The provider's `api_key` is neither a service account's file nor a person's",
                hint='Name a service account\'s file, `api_key = "file:sa.json"`; or leave'
                " `api_key` out, and run `gcloud auth application-default login` or name any other"
                " kind of file in GOOGLE_APPLICATION_CREDENTIALS",
            ) from fault
        except (GoogleAuthError, ValueError) as fault:
            # Its words may hold a part of the credential.
            raise Unsigned(
                "Google gives no access token for the provider's credentials"
                f" ({type(fault).__name__})",
                hint="They may have been revoked: see them in Google Cloud's console",
            ) from fault
        return found

    def _found(self, fetch: Fetch) -> Credentials:
        """Return the credentials that are meant, without a token as yet."""
        if self._secret is None:
            found, _ = google.auth.default(scopes=_SCOPES, request=fetch)
            assert isinstance(found, Credentials)  # noqa: S101 - what the library promises
            return found
        said = json.loads(self._secret)
        kind = said.get("type") if isinstance(said, dict) else None
        if kind == "service_account":
            found = service_account.Credentials.from_service_account_info(said, scopes=_SCOPES)
        elif kind == "authorized_user":
            found = people.Credentials.from_authorized_user_info(said, scopes=_SCOPES)
        else:
            raise DefaultCredentialsError("neither a service account nor a person's login")
        assert isinstance(found, Credentials)  # noqa: S101 - what the library promises
        return found
