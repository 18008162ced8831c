"""Bedrock behind the gateway: signed requests, event streams, exceptions within them, bills."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from clouds import Cloud, cloud
from eventstreams import framed
from gateway import KEY, Gateway, events
from shell import Reply, Running, running, until
from wire.recordings import recordings

from tollway.providers.transport import Request

RECORDED = {one.id.rpartition("/")[2]: one for one in recordings("bedrock/*.json")}
STREAM = "application/vnd.amazon.eventstream"
TOOLS = RECORDED["converse-stream_stream_tool-call_tool-result_nova-2-lite-v1"]
BROKEN = RECORDED["converse-stream_stream_mid-stream-exception_validation_nova-lite"]
CACHED = RECORDED["converse_document_cache-write_cache-read_claude-sonnet-4-5"]
NOVA, SONNET = "us.amazon.nova-2-lite-v1:0", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"


def config(port: int, key: str) -> str:
    """Return a configuration with Bedrock, whose prices are the bundled ones."""
    return f"""
[providers.bedrock]
kind = "bedrock"
base_url = "http://127.0.0.1:{port}"
{key}
[groups.all]
models = ["*"]
[users.ann]
groups = ["all"]
budget = ["90/day"]
[keys.laptop]
hash = "sha256:{sha256(KEY.encode()).hexdigest()}"
user = "ann"
"""


@pytest_asyncio.fixture
async def aws(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cloud]:
    """Yield Bedrock, at an address that names no region."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    async with cloud() as one:
        yield one


async def ask(gate: Gateway, model: str, *, stream: bool = False, **more: Any) -> Reply:
    """Ask as a client of OpenAI's does."""
    said: dict[str, Any] = {
        "model": f"bedrock/{model}",
        "messages": [{"role": "user", "content": "Hi"}],
    }
    if stream:
        said |= {"stream": True, "stream_options": {"include_usage": True}}
    return await gate.ask(msgspec.json.encode(said | more))


async def test_a_key_s_signature_is_one_that_aws_computes_too(
    aws: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the path as it is sent, the host, the time, the content type and the body."""
    pytest.importorskip("botocore")
    monkeypatch.setenv("PAIR", "AKIAABCDEFGHIJKLMNOP:secret/of+forty:token")
    aws.answer = (200, "application/json", CACHED.body)
    async with running(config(aws.port, 'api_key = "env:PAIR"'), server="") as daemon:
        gate = Gateway(daemon, [])
        reply = await ask(gate, SONNET)
        assert reply.status == 200, reply.body
        (path, heads, _) = aws.asked[0]
        assert path == f"/model/{SONNET.replace(':', '%3A')}/converse"
        assert heads["authorization"] == again(aws, daemon)
        assert heads["x-amz-security-token"] == "token"
        assert (
            "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token"
            in heads["authorization"]
        )
        row = await gate.row(reply)
        call = row.call
        assert (call.input_tokens, call.cache_read_tokens, call.cache_write_tokens) == (
            3,
            1712,
            236,
        )
        assert (call.output_tokens, call.estimated) == (121, False)
        # Three dollars and a tenth for a region's profile: 3 x 3.3 + 1712 x 0.33 + 236 x 4.125
        # + 121 x 16.5 millionths.
        assert call.cost_nanousd == 3_544_860
        hidden = daemon.server.daemon.gate.mask
        assert hidden("a secret/of+forty b") == "a *** b"


def again(aws: Cloud, daemon: Any) -> str:
    """Return the signature of the last request, by AWS's own library at the time that it says."""
    from botocore.auth import SigV4Auth  # noqa: PLC0415 - an extra
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415 - an extra
    from botocore.credentials import Credentials  # noqa: PLC0415 - an extra

    path, heads, _ = aws.asked[-1]
    url = f"http://{heads['host']}{path}"
    asked = AWSRequest("POST", url, headers={"content-type": heads["content-type"]}, data=aws.raw)
    signer = SigV4Auth(Credentials("AKIAABCDEFGHIJKLMNOP", "secret/of+forty", "token"),
                       "bedrock", "us-east-1")  # fmt: skip
    asked.context["timestamp"] = heads["x-amz-date"]
    asked.headers["X-Amz-Date"] = heads["x-amz-date"]
    asked.headers["X-Amz-Security-Token"] = "token"
    canonical = signer.canonical_request(asked)
    signature = signer.signature(signer.string_to_sign(asked, canonical), asked)
    found: str = heads["authorization"].rpartition("Signature=")[0] + f"Signature={signature}"
    return found


async def test_an_api_key_of_bedrock_s_needs_no_signature(
    aws: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes as a bearer's, and streams come as the client's dialect has them."""
    monkeypatch.setenv("BEDROCK", "bedrock-api-key-abc")
    aws.answer = (200, STREAM, TOOLS.body)
    async with running(config(aws.port, 'api_key = "env:BEDROCK"'), server="") as daemon:
        gate = Gateway(daemon, [])
        reply = await ask(gate, NOVA, stream=True)
        assert reply.headers["content-type"].startswith("text/event-stream")
        said = b"".join(events(reply))
        assert b'"name":"weather"' in said and said.endswith(b"data: [DONE]\n\n")
        path, heads, _ = aws.asked[0]
        assert path == f"/model/{NOVA.replace(':', '%3A')}/converse-stream"
        assert heads["authorization"] == "Bearer bedrock-api-key-abc"
        row = await gate.row(reply)
        assert (row.call.input_total, row.call.output_total) == (1133, 42)
        assert (row.call.ending, row.call.estimated) == ("answered", False)
        assert row.call.cost_nanousd == 1133 * 330 + 42 * 2750


async def test_an_exception_that_begins_a_stream_is_a_refusal(
    aws: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came with status 200; the client gets its own status and words, and pays nothing."""
    monkeypatch.setenv("BEDROCK", "bedrock-api-key-abc")
    aws.answer = (200, STREAM, BROKEN.body)
    async with running(config(aws.port, 'api_key = "env:BEDROCK"'), server="") as daemon:
        gate = Gateway(daemon, [])
        reply = await ask(gate, NOVA, stream=True)
        assert (reply.status, b"does not match the expected type" in reply.body) == (400, True)
        row = await gate.row(reply)
        assert (row.call.ending, row.call.cost_nanousd) == ("upstream_refused", 0)


async def test_throttling_in_a_stream_is_no_matter_of_the_prompt_s_length(
    aws: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its words speak of too many tokens; the model rests, and another as small is asked."""
    monkeypatch.setenv("BEDROCK", "bedrock-api-key-abc")
    said = b'{"message":"Too many tokens, please wait before trying again."}'
    slower = framed(said, exception_type=b"throttlingException", message_type=b"exception")
    aws.answer = (200, STREAM, slower)
    route = f'[routes.r]\nto = ["bedrock/{NOVA}", "bedrock/us.amazon.nova-lite-v1:0"]\n'
    async with running(config(aws.port, 'api_key = "env:BEDROCK"') + route, server="") as daemon:
        gate = Gateway(daemon, [])
        body = {"model": "r", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        reply = await gate.ask(msgspec.json.encode(body | {"max_tokens": 9}))
        assert (reply.status, reply.headers["x-tollway-attempts"]) == (429, "2")
        (provider,) = daemon.server.daemon.health.states()
        assert {one.why for one in provider.keys} == {"rate limited"}
        assert provider.targets == ()


@pytest.mark.parametrize(("original", "status", "fails"), [(500, 502, 2), (400, 424, 0)])
async def test_a_model_that_failed_is_no_fault_of_its_caller(
    aws: Cloud, monkeypatch: pytest.MonkeyPatch, original: int, status: int, fails: int
) -> None:
    """AWS answers 424, which clients take for a mistake of theirs; the model counts as failing."""
    monkeypatch.setenv("BEDROCK", "bedrock-api-key-abc")
    said = {"message": "The system encountered an error", "originalStatusCode": original}
    aws.answer = (424, "application/json", msgspec.json.encode(said))
    route = f'[routes.r]\nto = ["bedrock/{NOVA}"]\nretries = 1\n'
    async with running(config(aws.port, 'api_key = "env:BEDROCK"') + route, server="") as daemon:
        daemon.server.daemon.health.chance = lambda: 0.0
        gate = Gateway(daemon, [])
        body = {"model": "r", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
        reply = await gate.ask(msgspec.json.encode(body))
        assert (reply.status, b"encountered an error" in reply.body) == (status, True)
        (provider,) = daemon.server.daemon.health.states()
        assert sum(one.failures for one in provider.targets) == fails


async def test_a_spoilt_stream_breaks_the_call(aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte that is not the one that was sent is noticed by its message's sum."""
    monkeypatch.setenv("BEDROCK", "bedrock-api-key-abc")
    body = bytearray(TOOLS.body)
    body[-40] ^= 1
    aws.answer = (200, STREAM, bytes(body))
    async with running(config(aws.port, 'api_key = "env:BEDROCK"'), server="") as daemon:
        gate = Gateway(daemon, [])
        reply = await ask(gate, NOVA, stream=True)
        row = await gate.row(reply)
        assert (row.call.ending, row.call.estimated) == ("upstream_broke", True)
        assert b"[DONE]" not in reply.body + reply.rest


async def test_without_credentials_nothing_is_sent(
    aws: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """No key in the file, and none on the machine: the owner is told, not the caller's account."""
    pytest.importorskip("botocore")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    async with running(config(aws.port, ""), server="") as daemon:
        gate = Gateway(daemon, [])
        reply = await ask(gate, NOVA)
        assert (reply.status, reply.json()["error"]["code"]) == (502, "upstream_auth")
        assert not aws.asked
        row = await gate.row(reply)
        assert (row.call.ending, row.call.cost_nanousd) == ("upstream_refused", 0)
        # What the machine has is found without a restart.
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAABCDEFGHIJKLMNOP")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        aws.answer = (200, "application/json", CACHED.body)
        reply = await ask(gate, SONNET)
        assert reply.status == 200
        assert "Credential=AKIAABCDEFGHIJKLMNOP/" in aws.asked[0][1]["authorization"]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator["Slow"]:
    """Yield a program that the machine's configuration names for its credentials."""
    pytest.importorskip("botocore")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        monkeypatch.delenv(name, raising=False)
    one = Slow(tmp_path)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(one.config))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield one
    one.let_go()


class Slow:
    """A program for credentials that notes each start, and ends when it is told what to say."""

    def __init__(self, folder: Path) -> None:
        self.config, self._said = folder / "config", folder / "said"
        self._starts, self._program = folder / "starts", folder / "program"
        os.mkfifo(self._said)
        self._program.write_text(
            f"#!/bin/sh\necho x >> {self._starts}\n"
            f'said=$(cat {self._said})\n[ -n "$said" ] && echo "$said"\n'
        )
        self._program.chmod(0o700)
        self.config.write_text(f"[default]\ncredential_process = {self._program}\n")

    @property
    def starts(self) -> int:
        """How often it was started."""
        return self._starts.read_text().count("x") if self._starts.exists() else 0

    def says(self, left_s: float | None = None) -> None:
        """Let it end: with credentials that are good for so long, or with none."""
        text = ""
        if left_s is not None:
            until = datetime.now(UTC) + timedelta(seconds=left_s)
            text = (
                '{"Version":1,"AccessKeyId":"AKIAABCDEFGHIJKLMNOP","SecretAccessKey":"s",'
                f'"SessionToken":"t","Expiration":"{until.isoformat()}"}}'
            )
        self._said.write_text(text)

    def let_go(self) -> None:
        """Let it end where it still waits."""
        with suppress(OSError):
            os.close(os.open(self._said, os.O_WRONLY | os.O_NONBLOCK))


def renew(daemon: Running) -> None:
    """Let the pause after the last try to renew credentials be over."""
    from tollway.providers.aws_signing import AwsSigner  # noqa: PLC0415 - an extra

    signer = daemon.server.daemon.gate.target(f"bedrock/{SONNET}").signer
    assert isinstance(signer, AwsSigner)
    signer.next_s = 0.0


@pytest.mark.parametrize("left_s", [None, 3600.0], ids=["none", "good"])
async def test_credentials_are_asked_for_once_for_all_who_wait(
    aws: Cloud, slow: Slow, left_s: float | None
) -> None:
    """One after the other each would wait for a program of its own, and hold a thread."""
    aws.answer = (200, "application/json", CACHED.body)
    async with running(config(aws.port, ""), server="") as daemon:
        gate = Gateway(daemon, [])
        calls = [asyncio.create_task(ask(gate, SONNET)) for _ in range(5)]
        exchanges = daemon.server.daemon.exchanges
        await until(lambda: sum(one.attempt is not None for one in exchanges) == 5)
        await until(lambda: slow.starts == 1)
        next(iter(exchanges)).cut("client_left")  # who leaves takes nothing from the others
        await until(lambda: len(exchanges) == 4)
        await asyncio.to_thread(slow.says, left_s)
        replies = await asyncio.gather(*calls)
        status = 200 if left_s else 502
        assert sorted(one.status for one in replies) == sorted([503, *[status] * 4])
        assert slow.starts == 1


async def test_credentials_that_still_hold_are_used_while_new_ones_are_fetched(
    aws: Cloud, slow: Slow
) -> None:
    """AWS asks for new ones a quarter of an hour early: no call need wait for that."""
    aws.answer = (200, "application/json", CACHED.body)
    async with running(config(aws.port, ""), server="") as daemon:
        gate = Gateway(daemon, [])
        first = asyncio.create_task(ask(gate, SONNET))
        for number in (1, 2):  # AWS's library asks again at once for what ends as soon
            await until(lambda: slow.starts == number)  # noqa: B023 - waited for here
            await asyncio.to_thread(slow.says, 800.0)
        assert (await first).status == 200
        renew(daemon)
        for _ in range(3):
            assert (await ask(gate, SONNET)).status == 200
        await until(lambda: slow.starts == 3)
        await asyncio.to_thread(slow.says)
        for _ in range(3):
            assert (await ask(gate, SONNET)).status == 200
        assert slow.starts == 3


async def test_a_guardrail_is_asked_for_where_its_fee_may_be_unbounded(
    aws: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs by the length of texts, which no number of tokens says."""
    monkeypatch.setenv("BEDROCK", "bedrock-api-key-abc")
    rail = {"guardrailIdentifier": "g", "guardrailVersion": "1"}
    said = RECORDED["converse_finish-guardrail-intervened_titan-text-express-v1"]
    aws.answer = (200, "application/json", said.body)
    titan = "amazon.titan-text-express-v1"
    route = f'[routes.railed]\nto = ["bedrock/{titan}"]\nallow_unbounded = true\n'
    async with running(config(aws.port, 'api_key = "env:BEDROCK"') + route, server="") as daemon:
        gate = Gateway(daemon, [])
        reply = await ask(gate, titan, guardrailConfig=rail)
        assert (reply.status, reply.json()["error"]["param"]) == (402, "guardrailConfig")
        body = {"model": "railed", "messages": [{"role": "user", "content": "Hi"}]}
        reply = await gate.ask(msgspec.json.encode(body | {"guardrailConfig": rail}))
        assert reply.json()["choices"][0]["finish_reason"] == "content_filter"
        assert aws.asked[0][2]["guardrailConfig"] == rail


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("bedrock-runtime.us-east-1.amazonaws.com", "us-east-1"),
        ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("vpce-1.bedrock-runtime.eu-central-2.vpce.amazonaws.com", "eu-central-2"),
        ("bedrock.ap-southeast-2.amazonaws.com", "ap-southeast-2"),
        ("bedrock-runtime.cn-north-1.amazonaws.com.cn", "cn-north-1"),
    ],
)
async def test_the_region_is_the_one_that_the_address_names(host: str, region: str) -> None:
    """A signature for another one would be refused."""
    pytest.importorskip("botocore")
    from tollway.providers.aws_signing import AwsSigner  # noqa: PLC0415 - an extra

    request = Request(f"https://{host}/model/m/converse", (("content-type", "application/json"),))
    signed = await AwsSigner("AKIAABCDEFGHIJKLMNOP:secret").sign(request)
    assert f"/{region}/bedrock/aws4_request" in dict(signed.headers)["authorization"]
