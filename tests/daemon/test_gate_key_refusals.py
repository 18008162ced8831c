"""What a refusal says of the provider's key: whether another one answers, and what rests."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from gateway import Gateway, body, error, gateway, whole
from upstreams import Step, reads, says
from wire.recordings import recordings

SERVES: list[Step] = [reads(), says(whole())]
UNPAID = b'{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}'
# Anthropic's, as its clients quote it.
LOW = (
    b'{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is'
    b' too low to access the Anthropic API."}}'
)
LIMIT = (
    b'{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your'
    b' specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."}}'
)
# OpenAI's for pictures.
HARD_LIMIT = (
    b'{"error":{"code":"billing_hard_limit_reached","message":"Billing hard limit has been'
    b' reached","param":null,"type":"invalid_request_error"}}'
)
# xAI's, whose bad key is no 401 and whose empty account is a 403; Gemini's, Fireworks's, and
# OpenRouter's of what a key may spend; all as their users quote them.
XAI_KEY = (
    b'{"code":"Client specified an invalid argument","error":"Incorrect API key provided: na***ys.'
    b' You can obtain an API key from https://console.x.ai."}'
)
XAI_EMPTY = (
    b'{"code":"The caller does not have permission to execute the specified operation","error":'
    b'"Your team x has either used all available credits or reached its monthly spending limit."}'
)
XAI_NEW = b'{"code":"x","error":"Your newly created team doesn\'t have any credits yet."}'
PREPAID = (
    b'{"error":{"code":429,"message":"Your prepayment credits are depleted. Please go to AI Studio'
    b' at https://ai.studio/projects","status":"RESOURCE_EXHAUSTED"}}'
)
ELSEWHERE = (
    b'[{"error":{"code":400,"message":"User location is not supported for the API use.",'
    b'"status":"FAILED_PRECONDITION"}}]'
)
SUSPENDED = (
    b'{"error":{"message":"Account acme is suspended, possibly due to reaching the monthly spending'
    b' limit or failure to pay past invoices.","code":"PRECONDITION_FAILED","type":"error"}}'
)
KEY_LIMIT = b'{"error":{"message":"Key limit exceeded (total limit). Manage it","code":403}}'
SHUT = (
    b'{"type":"error","error":{"type":"invalid_request_error","message":"This organization has been'
    b' disabled."}}'
)
RESTRICTED = (
    b'{"error":{"message":"Organization has been restricted. Please reach out to support","type":'
    b'"invalid_request_error","code":"organization_restricted"}}'
)
NO_BILLING = (
    b'{"error":{"code":403,"message":"This API method requires billing to be enabled.","status":'
    b'"PERMISSION_DENIED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo",'
    b'"reason":"BILLING_DISABLED"}]}}'
)
BAD_KEY = next(
    one.body for one in recordings() if one.id == "gemini/generatecontent_err400_gemini-2-5-flash"
)
# OpenAI's, as its clients quote it, and OpenRouter's, as its documentation has it.
NO_ACCESS = (
    b'{"error":{"message":"Project `proj_1` does not have access to model `a`",'
    b'"type":"invalid_request_error","param":null,"code":"model_not_found"}}'
)
FLAGGED = (
    b'{"error":{"code":403,"message":"The model requires moderation, and your input was flagged",'
    b'"metadata":{"reasons":["violence"],"flagged_input":"...","provider_name":"OpenAI",'
    b'"model_slug":"openai/gpt-4o"}}}'
)
# UKGovernmentBEIS/inspect_ai#2267
XAI_FLAGGED = (
    b'{"code":"The caller does not have permission to execute the specified operation","error":'
    b'"Content violates usage guidelines. Team: t, API key ID: k, Model: grok-4-0709, Failed check:'
    b' SAFETY_CHECK_TYPE_BIO"}'
)


def refuses(status: str, said: bytes) -> list[Step]:
    """Return a script that refuses."""
    return [reads(), says(whole(said, status=status))]


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the line of a pool of two keys, which are there."""
    monkeypatch.setenv("POOL_ONE", "sk-first-secret-0123456789")
    monkeypatch.setenv("POOL_TWO", "sk-second-secret-0123456789")
    return 'api_keys = ["env:POOL_ONE", "env:POOL_TWO"]'


async def keys_of(gate: Gateway) -> list[dict[str, Any]]:
    """Return what the daemon tells of the first provider's keys."""
    status = (await gate.daemon.ask("GET", "/control/status", admin=True)).json()
    found: list[dict[str, Any]] = status["providers"][0]["keys"]
    return found


@pytest.mark.parametrize(
    ("status", "said"),
    [
        pytest.param("400 Bad", BAD_KEY, id="Gemini's bad key"),
        pytest.param("400 Bad", LOW, id="Anthropic's empty account"),
        pytest.param("400 Bad", LIMIT, id="Anthropic's limit of the month"),
        pytest.param("400 Bad", HARD_LIMIT, id="OpenAI's hard limit"),
        pytest.param("402 Pay", b"{}", id="402"),
        pytest.param("429 Slow down", UNPAID, id="OpenAI's empty account"),
        pytest.param("400 Bad", XAI_KEY, id="xAI's bad key"),
        pytest.param("403 No", XAI_EMPTY, id="xAI's empty account"),
        pytest.param("429 No", XAI_EMPTY, id="xAI's empty account, as it was"),
        pytest.param("403 No", XAI_NEW, id="xAI's new account"),
        pytest.param("429 No", PREPAID, id="Gemini's empty account"),
        pytest.param("400 No", ELSEWHERE, id="Gemini, from where it does not serve"),
        pytest.param("412 No", SUSPENDED, id="Fireworks's suspended account"),
        pytest.param("403 No", KEY_LIMIT, id="OpenRouter's limit of a key"),
        pytest.param("400 No", SHUT, id="Anthropic's account that is shut"),
        pytest.param("400 No", RESTRICTED, id="Groq's account that is shut"),
        pytest.param("403 No", NO_BILLING, id="Google Cloud without billing"),
    ],
)
async def test_a_key_that_is_bad_or_empty_is_replaced_by_another_at_once(
    pool: str, status: str, said: bytes
) -> None:
    """However its provider says so; it rests for ten minutes, and no call sees anything of it."""
    script: Sequence[Sequence[Step]] = [refuses(status, said), SERVES]
    async with gateway(script, provider=pool) as gate:
        replies = [await gate.ask() for _ in range(4)]
        assert [one.status for one in replies] == [200] * 4
        assert [one.headers["x-tollway-attempts"] for one in replies] == ["2", "1", "1", "1"]
        first, second = await keys_of(gate)
        assert (first["state"], second["state"]) == ("open", "closed")
        assert 590 < first["rests_s"] <= 600


@pytest.mark.parametrize(
    "words",
    [
        "Your credit balance is too low to access it",
        "Your team x has either used all available credits or reached its monthly limit",
        "Account x is suspended, possibly due to reaching the monthly spending limit",
    ],
)
async def test_what_a_caller_wrote_takes_no_key_from_the_others(pool: str, words: str) -> None:
    """Refusals quote it, and by the words of an empty account it rested for everybody."""
    quoted = f"invalid value: `{words}`, supported values are: `system`, `user`"
    said = msgspec.json.encode({"error": {"message": quoted, "code": "InvalidParameter"}})
    async with gateway([refuses("400 Bad", said), SERVES], provider=pool) as gate:
        assert (await gate.ask(body(messages=[{"role": words, "content": "Hi"}]))).status == 400
        assert [one["state"] for one in await keys_of(gate)] == ["closed", "closed"]


async def test_a_firewall_s_page_says_nothing_of_the_key(pool: str) -> None:
    """It takes one caller's prompt for an attack, and the key rested for everybody's calls."""
    page = b"<!DOCTYPE html><html><title>Attention Required! | Cloudflare</title></html>"
    route = '[routes.r]\nto = ["up/m", "up1/m"]\n'
    scripts = [refuses("403 No", page), refuses("403 No", page), SERVES]
    async with gateway(scripts, [SERVES], provider=pool, more=route) as gate:
        refused = await gate.ask(body(model="up/m"))
        assert (refused.status, refused.headers["x-tollway-attempts"]) == (502, "1")
        assert "Attention Required" in error(refused)["message"]
        assert "firewall" in error(refused)["message"]
        assert (await gate.ask(body(model="r"))).headers["x-tollway-target"] == "up1/m"
        assert (await gate.ask(body(model="r"))).headers["x-tollway-target"] == "up/m"
        assert [one["state"] for one in await keys_of(gate)] == ["closed", "closed"]


@pytest.mark.parametrize("said", [BAD_KEY, LOW], ids=["a bad key", "an empty account"])
async def test_a_key_that_is_bad_or_empty_leads_to_the_next_target(said: bytes) -> None:
    """Another provider knows another key; the first one is asked no more."""
    route = '[routes.r]\nto = ["up/m", "up1/m"]\nretries = 2\n'
    async with gateway([refuses("400 Bad", said)], [SERVES], more=route) as gate:
        replies = [await gate.ask(body(model="r")) for _ in range(3)]
        assert [one.status for one in replies] == [200] * 3
        assert [one.headers["x-tollway-attempts"] for one in replies] == ["2", "1", "1"]


async def test_an_empty_account_is_not_asked_again_by_the_same_call() -> None:
    """A wait of seconds brings no money, whatever `retries` says."""
    route = '[routes.r]\nto = ["up/m"]\nretries = 3\n'
    async with gateway([refuses("429 Slow down", UNPAID)], more=route) as gate:
        reply = await gate.ask(body(model="r"))
        assert (reply.status, reply.headers["x-tollway-attempts"]) == (429, "1")
        assert error(reply)["code"] == "insufficient_quota"


@pytest.mark.parametrize(("status", "said"), [("403 No", XAI_EMPTY), ("412 No", SUSPENDED)])
async def test_an_account_without_money_is_told_as_that(status: str, said: bytes) -> None:
    """403 says to a client that it is itself not let in, and Claude Code asks for a login then."""
    async with gateway([refuses(status, said)]) as gate:
        reply = await gate.ask()
        assert reply.status == 402
        assert "monthly spending limit" in error(reply)["message"]
        (told,) = await keys_of(gate)
        assert (told["why"], told["model"]) == (f"out of money (HTTP {status[:3]})", "")


async def test_a_model_that_a_key_may_not_use_says_nothing_of_the_others() -> None:
    """Who asks for a forbidden model must not send everybody's calls elsewhere."""
    route = '[routes.r]\nto = ["up/m", "up1/m"]\n'
    scripts = [refuses("403 No", NO_ACCESS), SERVES]
    async with gateway(scripts, [SERVES], more=route) as gate:
        refused = await gate.ask(body(model="up/forbidden"))
        assert (refused.status, error(refused)["code"]) == (502, "upstream_auth")
        reply = await gate.ask(body(model="r"))
        assert reply.headers["x-tollway-target"] == "up/m"
        (told,) = gate.daemon.server.daemon.health.failing().values()
        assert told == "up: refused (HTTP 403) for forbidden"
        await gate.daemon.ask("POST", "/control/reload", admin=True)
        assert gate.daemon.server.daemon.health.failing() == {}


@pytest.mark.parametrize(
    ("status", "why", "model"),
    [("401 No", "refused (HTTP 401)", ""), ("429 Slow down", "rate limited", "m")],
)
async def test_a_provider_without_a_key_is_told_while_it_rests(
    status: str, why: str, model: str
) -> None:
    """Calls go around it as they do where a key rests, and its owner must see why."""
    async with gateway([[*refuses(status, b"{}")], SERVES]) as gate:
        assert await keys_of(gate) == []
        await gate.ask()
        (told,) = await keys_of(gate)
        assert (told["number"], told["name"], told["state"]) == (0, "", "open")
        assert (told["why"], told["model"]) == (why, model)
        assert told["rests_s"] > 0


async def test_names_that_a_caller_makes_up_do_not_flood_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each is another model that the key may not use; ten are told of, and that there are more."""
    clock = [1000.0]
    async with gateway([refuses("403 No", NO_ACCESS)]) as gate:
        health = gate.daemon.server.daemon.health
        health.clock = lambda: clock[0]
        for number in range(30):
            assert (await gate.ask(body(model=f"up/made-up-{number}"))).status == 502
        told = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
        assert len([one for one in told if "up rests" in one]) == 10
        (more,) = [one for one in told if "more of its models or keys fail" in one]
        assert more.startswith("up: ")
        clock[0] += 60
        assert (await gate.ask(body(model="up/after-a-minute"))).status == 502
        assert "for after-a-minute" in caplog.text


@pytest.mark.parametrize(
    ("said", "words"),
    [(FLAGGED, "your input was flagged"), (XAI_FLAGGED, "Content violates usage guidelines")],
    ids=["OpenRouter", "xAI"],
)
async def test_a_flagged_prompt_is_its_caller_s_refusal_and_no_key_s(
    said: bytes, words: str
) -> None:
    """No other key or target is asked to take what a filter refused, and nothing rests."""
    route = '[routes.r]\nto = ["up/m", "up1/m"]\nretries = 2\n'
    scripts = [refuses("403 No", said), SERVES]
    async with gateway(scripts, [SERVES], more=route) as gate:
        refused = await gate.ask(body(model="r"))
        assert (refused.status, refused.headers["x-tollway-attempts"]) == (403, "1")
        assert words in error(refused)["message"]
        assert (await gate.ask(body(model="r"))).headers["x-tollway-target"] == "up/m"
