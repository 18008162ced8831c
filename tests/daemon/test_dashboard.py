"""The dashboard: one page that asks nobody else, and numbers that are the report's."""

import asyncio
import contextlib
import json
import os
import re
from base64 import b64encode
from hashlib import sha256

import aiohttp
import msgspec
from browser import Page, browser
from gateway import DONE, HEAD, KEY, Gateway, body, chunk, gateway, whole
from program import run
from shell import PATIENCE_S, until
from upstreams import Step, reads, says, waits

from tollway.daemon.dashboard import Moment, _dearest
from tollway.daemon.ledger.spend import SpendRow

ANSWER: list[Step] = [reads(), says(whole())]
REFUSED: list[Step] = [reads(), says(whole(b'{"error":{"message":"no"}}', status="400 Bad"))]
MORE = '[routes.fast]\nto = ["up/m"]\n[routes.slow]\nto = ["up/n"]'


def url_of(gate: Gateway, path: str = "/ui") -> str:
    """Return where the gateway listens."""
    return f"http://127.0.0.1:{gate.daemon.port}{path}"


async def moments(gate: Gateway, count: int, **headers: str) -> list[Moment]:
    """Return the first so many events of the stream."""
    found: list[Moment] = []
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(url_of(gate, "/ui/events")) as answer,
    ):
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        while len(found) < count:
            assert await answer.content.readline() == b"event: now\n"
            data = (await answer.content.readline()).removeprefix(b"data: ")
            found.append(json_moment(data))
            assert await answer.content.readline() == b"\n"
    return found


def json_moment(data: bytes) -> Moment:
    """Return an event's data as what it is."""
    return msgspec.json.decode(data, type=Moment)


async def spend(gate: Gateway, by: str) -> dict[str, int]:
    """Return what `tollway spend --json` says of today, by group, in nano-dollars."""
    path = gate.daemon.server.daemon.config.path
    words = ("spend", "--since", "today", "--by", by, "--json", "--config", str(path))
    done = await asyncio.to_thread(run, *words, env={"PATH": os.environ["PATH"]}, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    # What was refused has no target, and cost nothing.
    named = [row for row in said["rows"] if any(row["group"].values())]
    return {"/".join(row["group"].values()): row["cost_nanousd"] for row in named}


async def test_the_page_asks_nobody_else_and_allows_no_other_script() -> None:
    """Its style and script stand in it, known to its policy by their hashes."""
    async with gateway() as gate:
        reply = await gate.daemon.ask("GET", "/ui")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    text = reply.body.decode()
    for tag in ("style", "script"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = b64encode(sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r'\b(style|on[a-z]+)="', text)


async def test_its_numbers_are_those_of_spend() -> None:
    """Today's sums by team and model, what failed, and what is under way."""
    go = asyncio.Event()
    held: list[Step] = [
        reads(),
        says(HEAD + chunk("Hel")),
        waits(go),
        says(chunk("", "stop") + DONE),
    ]
    async with gateway([ANSWER, ANSWER, REFUSED, held], more=MORE) as gate:
        await gate.row(await gate.ask(body(model="fast")))
        await gate.row(await gate.ask(body(model="slow")))
        refused = await gate.row(await gate.ask(body(model="slow")))
        asked = asyncio.create_task(gate.ask(body(True, model="fast")))
        await until(
            lambda: any(
                one.pipe.was_full or one.attempts for one in gate.daemon.server.daemon.exchanges
            )
        )
        (now,) = await moments(gate, 1)
        assert now.today is not None
        assert {row.name: row.cost_nanousd for row in now.today.teams} == await spend(gate, "team")
        by_model = {row.name: row.cost_nanousd for row in now.today.models}
        assert by_model == await spend(gate, "provider,model")
        assert now.today.total.cost_nanousd == sum(by_model.values()) > 0
        assert [(one.id, one.who, one.asked) for one in now.today.failed] == [
            (refused.call.id, "ann", "slow")
        ]
        assert [one.user for one in now.live.under_way] == ["ann"]
        assert now.live.calls.active == 1
        go.set()
        await asked


async def test_many_that_look_on_see_the_same_moment() -> None:
    """It is put together once; one that is too many is told so, and a leaver makes room."""
    async with gateway() as gate:
        found = await asyncio.gather(*(moments(gate, 2) for _ in range(5)))
        assert len({one[0].live.at for one in found}) <= 2
        async with contextlib.AsyncExitStack() as stack:
            connector = aiohttp.TCPConnector(limit=0)
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            for _ in range(32):
                opened = await stack.enter_async_context(session.get(url_of(gate, "/ui/events")))
                assert opened.status == 200
            reply = await gate.daemon.ask("GET", "/ui/events")
            assert (reply.status, reply.json()["error"]["code"]) == (503, "too_many_viewers")
        left = asyncio.timeout(PATIENCE_S)
        async with left, aiohttp.ClientSession() as later:
            status = 503
            while status == 503:  # until the gateway has noticed that they left
                async with later.get(url_of(gate, "/ui/events")) as again:
                    status = again.status
        assert status == 200


async def test_from_elsewhere_the_key_for_it_is_asked_as_a_password() -> None:
    """Behind a proxy every peer is on loopback, so that says nothing."""
    server = 'behind_proxy = true\nmetrics_key = "laptop"'
    password = b64encode(f"me:{KEY}".encode()).decode()
    async with gateway(server=server) as gate:
        asked = await gate.daemon.ask("GET", "/ui")
        assert asked.status == 401
        assert asked.headers["www-authenticate"].startswith("Basic ")
        for wrong in ("Basic !", f"Basic {b64encode(b'me:tw-no').decode()}"):
            assert (await gate.daemon.ask("GET", "/ui", authorization=wrong)).status == 401
        opened = await gate.daemon.ask("GET", "/ui", authorization=f"Basic {password}")
        assert opened.status == 200
        assert len(await moments(gate, 1, authorization=f"Basic {password}")) == 1
    async with gateway(server="behind_proxy = true") as gate:
        closed = await gate.daemon.ask("GET", "/ui", authorization=f"Basic {password}")
        assert closed.status == 403
        assert b"server.metrics_key" in closed.body


async def test_a_stopping_gateway_ends_the_stream() -> None:
    """A page that is left open keeps no daemon from stopping."""
    async with (
        gateway() as gate,
        aiohttp.ClientSession() as session,
        session.get(url_of(gate, "/ui/events")) as answer,
    ):
        await answer.content.readline()
        gate.daemon.server.daemon.draining = True
        assert (await answer.content.read()).endswith(b"\n\n")


def test_what_is_too_much_for_a_page_is_added_up() -> None:
    """The dearest are named; the rest are one row, so that the sum is whole."""
    zeros = dict.fromkeys(SpendRow.__struct_fields__, 0)
    rows = [
        SpendRow(**{**zeros, "group": (f"t{number}",), "cost_nanousd": 100 - number, "calls": 1})  # type: ignore[arg-type]
        for number in range(20)
    ]
    found = _dearest(rows)
    assert len(found) == 13
    assert (found[-1].others, found[-1].calls) == (8, 8)
    assert sum(one.cost_nanousd for one in found) == sum(row.cost_nanousd for row in rows)


async def test_in_a_browser_the_page_shows_what_spend_says() -> None:
    """Seen in Chromium: the numbers, in words that no name from outside can turn into a page."""
    evil = "<img src=x onerror=document.title='owned'>"
    async with gateway([ANSWER, ANSWER], more=MORE) as gate, browser() as page:
        await gate.row(await gate.ask(body(model="fast")))
        await gate.row(await gate.ask(body(model="slow")))
        await gate.row(await gate.ask(body(model=f"up/{evil}")))
        await gate.ask(body(model=f"up/{evil}", max_tokens=10**9))
        await page.open(url_of(gate))
        await page.until("document.body.dataset.drawn")
        for by, place in (("team", "teams"), ("provider,model", "models")):
            shown = await page.get(
                f"Object.fromEntries([...document.querySelectorAll('#{place} tbody tr')].map(row =>"
                " [row.cells[0].textContent,"
                " Number(row.querySelector('[data-nanousd]').dataset.nanousd)]))"
            )
            assert shown == await spend(gate, by)
        total = await page.get(
            "Number(document.querySelector('#facts [data-nanousd]').dataset.nanousd)"
        )
        assert total == sum((await spend(gate, "team")).values())
        assert evil in await page.get("document.querySelector('#failed').textContent")
        assert "owned" not in await page.get("document.title")
        await _is_for_everybody(page)
        assert page.complaints == []
        assert set(page.asked) == {url_of(gate), url_of(gate, "/ui/events")}


async def _is_for_everybody(page: Page) -> None:
    """Check that keys alone work it, and that a screen reader has names for all there is."""
    await page.press("p")
    assert await page.get("document.querySelector('#state').textContent") == "Paused"
    assert await page.get("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
    await page.press("Tab")
    await page.press("Tab")
    assert await page.get("document.activeElement.id") == "pause"
    await page.press("Enter")
    assert await page.get("document.querySelector('#state').textContent") == "Live"
    tree = (await page.send("Accessibility.getFullAXTree"))["nodes"]
    named = {
        (one["role"]["value"], one.get("name", {}).get("value", ""))
        for one in tree
        if not one["ignored"]
    }
    for heading in ("Today by team", "Today by model", "Budgets", "Calls under way"):
        assert ("heading", heading) in named
        assert ("region", heading) in named
    assert ("columnheader", "cost") in named
    assert ("rowheader", "ml") in named
    assert {"main", "status", "button"} <= {role for role, _ in named}
    for role, name in named:
        assert name or role not in {"button", "link", "heading", "columnheader", "region"}
