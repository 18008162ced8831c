"""Asks providers for their models, with the configured credential: the cheapest proof of both."""

import asyncio
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from tollway.daemon import secrets
from tollway.daemon.config.load import places
from tollway.daemon.config.schema import Config, Provider, SecretRef
from tollway.providers.catalog import KINDS, Kind, request_headers
from tollway.providers.errors import GatewayError, UpstreamTimeout, UpstreamUnreachable
from tollway.providers.http.client import HttpTransport
from tollway.providers.signing import signer_of
from tollway.providers.transport import Request, Timeouts
from tollway.providers.words import counted

_MOST_BYTES = 8 * 2**20  # of a list of models; OpenRouter's has half a megabyte
# How an API's address ends: "/v1", "/v1beta"; more than one of them where it was written twice.
_VERSIONS = re.compile(r"(?:/v\d+(?:alpha|beta)?\d*)+\Z")


class Reached(msgspec.Struct, frozen=True):
    """How asking one provider went: `state` "warn" is an answer that proves too little.

    `models` counts what it lists, None where it lists nothing that can be read, and `names` are
    theirs, as calls have them behind the provider's; `status` is HTTP's, None where no answer
    came; `key` the one of its keys that it was asked with, of several.
    """

    provider: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""
    models: int | None = None
    seconds: float | None = None
    status: int | None = None
    key: str = ""
    names: tuple[str, ...] = ()


class _Listing(msgspec.Struct):
    data: list[msgspec.Raw] = []
    models: list[msgspec.Raw] = []  # Gemini's and Cohere's word
    publisherModels: list[msgspec.Raw] = []  # noqa: N815 - Vertex's
    modelSummaries: list[msgspec.Raw] = []  # noqa: N815 - Bedrock's


# One page with all there are; who knows no such parameter has no pages.
_PAGE = {"anthropic_messages": "?limit=1000", "gemini": "?pageSize=1000"}


def reach_all(config: Config, *, timeout_s: float = 5.0) -> list[Reached]:
    """Return how each provider answers, in the file's order; all are asked at once.

    One with several keys is asked with each of them.
    """
    return reach_some(config, config.providers, timeout_s=timeout_s)


def reach_some(
    config: Config, providers: Mapping[str, Provider], *, timeout_s: float = 5.0
) -> list[Reached]:
    """Return how these providers answer. None of their faults is an error of the caller's."""

    async def ask_all() -> list[Reached]:
        transport = HttpTransport()
        try:
            asked = (
                _ask(transport, config, name, one, key, timeout_s)
                for name, one in providers.items()
                for key in one.keys or (None,)
            )
            return list(await asyncio.gather(*asked))
        finally:
            await transport.close()

    return asyncio.run(ask_all())


async def _ask(
    transport: HttpTransport,
    config: Config,
    name: str,
    provider: Provider,
    key: SecretRef | None,
    timeout_s: float,
) -> Reached:
    found = await _asked(transport, config, name, provider, key, timeout_s)
    return msgspec.structs.replace(found, key=str(key)) if len(provider.keys) > 1 else found


async def _asked(
    transport: HttpTransport,
    config: Config,
    name: str,
    provider: Provider,
    key: SecretRef | None,
    timeout_s: float,
) -> Reached:
    kind = KINDS[provider.kind]
    base_url = (provider.base_url or kind.base_url or "").rstrip("/")
    ca_file = str(provider.ca_file) if provider.ca_file else None
    began = time.monotonic()
    try:
        # A keyring may ask its owner to unlock it: in a thread, the others go on.
        credential = await asyncio.to_thread(_credential, config, key)
        signer = signer_of(kind, credential, provider.proxy, ca_file)
        request = Request(
            url=_listing_at(kind, base_url),
            headers=request_headers(kind, credential),
            method="GET",
            timeouts=Timeouts(connect_s=timeout_s, first_s=timeout_s, idle_s=timeout_s),
            proxy=provider.proxy,
            ca_file=ca_file,
        )
        async with asyncio.timeout(3 * timeout_s):
            if signer is not None:
                request = await signer.sign(request)
            status, body = await _fetch(transport, request)
    except GatewayError as error:
        fix = error.hint or _look_at(name, base_url)
        if isinstance(error, UpstreamUnreachable | UpstreamTimeout):
            fix += _past_a_proxy(name, provider, base_url)
        return Reached(name, "fail", error.message, fix=fix)
    except TimeoutError:
        return Reached(name, "fail", f"`{base_url}` answers too slowly", _look_at(name, base_url))
    judged = _judged(name, base_url, status, body, time.monotonic() - began)
    if provider.auth == "caller" and status in (401, 403):
        told = f"`{base_url}` is up; its callers bring their own credential"
        judged = msgspec.structs.replace(judged, state="ok", detail=told, fix="")
    if judged.state == "warn" and status != 429 and kind.lists is None:
        better = await _better(transport, request, kind, base_url, 3 * timeout_s)
        if better:
            (where,) = places(config.path, [("providers", name, "base_url")])
            told = f"{judged.detail}; `{better}/models` has the list"
            fix = f'{where}: write "{better}"'
            judged = msgspec.structs.replace(judged, state="fail", detail=told, fix=fix)
    return msgspec.structs.replace(judged, status=status)


def _past_a_proxy(name: str, provider: Provider, base_url: str) -> str:
    """Return what to say where other programs of this user go by way of a proxy, else ""."""
    host = urlsplit(base_url).hostname or ""
    if provider.proxy is not None or host == "localhost" or host.startswith("127."):
        return ""
    for said in (f"{urlsplit(base_url).scheme}_proxy", "all_proxy"):
        for variable in (said.upper(), said):
            if os.environ.get(variable):
                return (
                    f"\n`{variable}` is set, and the gateway does not go by it:"
                    f' `proxy = "http://HOST:PORT"` in [providers.{name}] does'
                )
    return ""


async def _better(
    transport: HttpTransport, asked: Request, kind: Kind, base_url: str, within_s: float
) -> str:
    """Return the address near this one, on the same host, that lists models; "" for none."""
    for near in _near(base_url, kind):
        request = msgspec.structs.replace(asked, url=_listing_at(kind, near))
        try:
            async with asyncio.timeout(within_s):
                status, body = await _fetch(transport, request)
            if status == 200:
                _listed(body)
                return near
        except (GatewayError, TimeoutError, msgspec.DecodeError, ValueError):
            continue
    return ""


def _near(base_url: str, kind: Kind) -> Iterator[str]:
    """Yield what is often meant by an address: its version left out, or written twice."""
    usual = _VERSIONS.search(kind.base_url or "/v1")
    bare = _VERSIONS.sub("", base_url)
    for near in (bare + (usual[0] if usual else "/v1"), bare):
        if near != base_url:
            yield near


def _listing_at(kind: Kind, base_url: str) -> str:
    if kind.lists is not None:
        return re.sub(kind.lists.of, kind.lists.at, base_url)
    return f"{base_url}/models{_PAGE.get(kind.dialect, '')}"


def _credential(config: Config, key: SecretRef | None) -> str | None:
    return None if key is None else secrets.resolve(key, base=config.path.parent).reveal()


async def _fetch(transport: HttpTransport, request: Request) -> tuple[int, bytes]:
    answer = await transport.send(request)
    body = b""
    try:
        async for chunk in answer.chunks():
            body += chunk
            if len(body) > _MOST_BYTES:
                break
    finally:
        await answer.close()
    return answer.status, body


def _judged(name: str, base_url: str, status: int, body: bytes, seconds: float) -> Reached:
    if status in (401, 403):
        return Reached(
            name,
            "fail",
            f"`{base_url}` refuses the key ({status})",
            f"`providers.{name}.api_key` names it; `tollway secrets set` stores another",
            seconds=seconds,
        )
    if status != 200:
        return Reached(
            name,
            "warn" if status in (404, 405, 429) else "fail",
            f"`{base_url}/models` answers {status}",
            _look_at(name, base_url),
            seconds=seconds,
        )
    try:
        models = _listed(body)
    except (msgspec.DecodeError, ValueError):  # ValueError: it is no UTF-8
        detail = f"`{base_url}/models` answers something that is no list of models"
        return Reached(name, "warn", detail, _look_at(name, base_url), seconds=seconds)
    detail = f"`{base_url}`, {counted(len(models), 'model')}"
    names = tuple(filter(None, map(_name_of, models)))
    return Reached(name, "ok", detail, models=len(models), seconds=seconds, names=names)


# How lists call a model: OpenAI's and most, Bedrock's, Gemini's and Cohere's.
_NAMES = ("id", "modelId", "name")
_PLACE = re.compile(r"(?:publishers/(?:google|anthropic)/|publishers/)?(.*?)(?:models/)(.+)")


def _name_of(model: bytes) -> str:
    """Return a model's name as calls have it; "" where there is none that can be read."""
    try:
        said = msgspec.json.decode(model, type=dict[str, msgspec.Raw])
        name = next((msgspec.json.decode(said[key]) for key in _NAMES if key in said), "")
    except msgspec.DecodeError:
        return ""
    if not isinstance(name, str):
        return ""
    placed = _PLACE.fullmatch(name)  # Google's: models/NAME, publishers/MAKER/models/NAME
    return placed[1] + placed[2] if placed else name


def _listed(body: bytes) -> list[msgspec.Raw]:
    """Return the models that a list has.

    Raises:
        msgspec.DecodeError: It is none.
    """
    said = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    if not said.keys() & set(_Listing.__struct_fields__):
        raise msgspec.DecodeError("neither `data` nor `models` is there")
    found = msgspec.json.decode(body, type=_Listing)
    return max(msgspec.structs.astuple(found), key=len)


def _look_at(name: str, base_url: str) -> str:
    return f"See that `providers.{name}.base_url` (`{base_url}`) is right and up"
