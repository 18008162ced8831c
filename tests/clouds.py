"""A cloud for tests: a token server like Google's, credentials for it, and models behind it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gateway import KEY

# The tables of somebody who may call everything, with a hard budget and the key `KEY`.
ANN = f"""[groups.all]
models = ["*"]
[users.ann]
groups = ["all"]
budget = ["9/day"]
[keys.laptop]
hash = "sha256:{sha256(KEY.encode()).hexdigest()}"
user = "ann"
"""


@dataclass
class Cloud:
    """Answers every call with `answer`, and gives tokens one after the other."""

    port: int = 0
    answer: tuple[int, str, bytes] = (200, "application/json", b"{}")
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    tokens: int = 0
    lasts_s: int = 3600
    refuses: bool = False
    token_asked: int = 0
    tokens_from: asyncio.Event | None = None  # before it nobody who asks for one is answered
    raw: bytes = b""  # the last call's body
    forms: bool = False  # bodies are no JSON

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    async def token(self, request: web.Request) -> web.Response:
        """Give an access token for a signed statement."""
        said = await request.post()
        assert said["assertion"]
        self.token_asked += 1
        if self.tokens_from is not None:
            await self.tokens_from.wait()
        if self.refuses:
            return web.json_response({"error": "invalid_grant"}, status=400)
        self.tokens += 1
        found = {"access_token": f"token-{self.tokens}", "expires_in": self.lasts_s}
        return web.json_response({**found, "token_type": "Bearer"})

    async def model(self, request: web.Request) -> web.Response:
        """Answer a call."""
        body = self.raw = await request.read()
        heads = {name.lower(): value for name, value in request.headers.items()}
        path = request.raw_path
        self.asked.append((path, heads, json.loads(body) if body and not self.forms else None))
        status, kind, said = self.answer
        return web.Response(status=status, body=said, headers={"content-type": kind})

    def service_account(self) -> str:
        """Return the file of a service account, with a key that was made for it."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
        said = {
            "type": "service_account",
            "project_id": "example-project",
            "private_key_id": "a" * 40,
            "private_key": pem,
            "client_email": "robot@example-project.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        return json.dumps(said, indent=2)


@contextlib.asynccontextmanager
async def cloud() -> AsyncIterator[Cloud]:
    """Yield a cloud on loopback."""
    one = Cloud()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/token", one.token)
    app.router.add_route("*", "/{tail:.*}", one.model)
    async with TestServer(app, host="127.0.0.1") as server:
        one.port = server.port or 0
        yield one
