"""What people have lost money, trust or data to at gateways: each failure, tried here.

Most such failures are tried where their part is; these are the rest, each told in the docstring.
"""

import asyncio

import msgspec
import pytest
from gateway import (
    DONE,
    HEAD,
    INPUT,
    KEY,
    OUTPUT,
    WHOLE,
    Gateway,
    body,
    chunk,
    config,
    gateway,
    whole,
)
from limited import limited, on, refused
from shell import running, until
from upstreams import Step, reads, resets, says, stalls, upstream, waits

from tollway.daemon.gate.limits import limits_of
from tollway.daemon.ledger.calls import recent
from tollway.daemon.ledger.verify import verify
from tollway.daemon.state import Daemon

COST = 7 * INPUT + 3 * OUTPUT


def _daemon(gate: Gateway) -> Daemon:
    return gate.daemon.server.daemon


async def test_the_first_calls_of_somebody_new_share_one_budget() -> None:
    """A newcomer's first calls came at once, each found no counter yet, and all got through."""
    go = asyncio.Event()
    async with gateway([[reads(), waits(go), says(whole())]], budget="1/day") as gate:
        one = asyncio.create_task(gate.ask())
        await until(lambda: len(gate.ups[0].requests) == 1)
        hold = gate.held()
        go.set()
        await one
        go.clear()
        text = gate.daemon.config.read_text()
        new = f'[users.new]\nteam = "ml"\nbudget = ["{3 * hold / 1e9:.9f}/month"]\n'
        gate.daemon.config.write_text(text.replace('user = "ann"', 'user = "new"') + new)
        await gate.daemon.server.reloader.reload()
        asking = [asyncio.create_task(gate.ask()) for _ in range(20)]
        await until(lambda: sum(task.done() for task in asking) == 17)
        go.set()
        statuses = sorted([reply.status for reply in await asyncio.gather(*asking)])
        assert statuses == [200] * 3 + [402] * 17
        assert len(gate.ups[0].requests) == 1 + 3


@pytest.mark.parametrize(("letters", "status"), [(100_000, 200), (300_000, 402)])
async def test_a_long_prompt_is_held_at_the_price_of_long_prompts(
    letters: int, status: int
) -> None:
    """Prompts over a threshold cost twice as much, the estimate did not know, and a cap was passed.

    gpt-5.4 costs $2.50 a million tokens, and $5 where a prompt has 272,000 or more. A dollar has
    room for 300,000 tokens at the first price alone.
    """
    async with upstream([reads(), says(whole())]) as up:
        text = config([up]).replace('[prices."up/*"]\ninput = 1\noutput = 2\n', "")
        async with running(text, server="") as daemon:
            gate = Gateway(daemon, [up])
            said = body(model="up/gpt-5.4", messages=[{"role": "user", "content": "a" * letters}])
            reply = await gate.ask(said)
            assert reply.status == status, reply.body
            assert len(up.requests) == (status == 200)


ENDINGS: dict[str, tuple[list[Step], bytes, bool]] = {
    "answered": ([reads(), says(whole())], body(), False),
    "no usage": ([reads(), says(whole(WHOLE.split(b',"usage"')[0] + b"}"))], body(), False),
    "refused": ([reads(), says(whole(b"{}", status="429 Too Many"))], body(), False),
    "reset": ([reads(), resets()], body(), False),
    "cut": ([reads(), says(HEAD + chunk("Hi")), resets()], body(True), False),
    "garbage": ([reads(), says(whole(b"<html>"))], body(), False),
    "left": ([reads(), stalls()], body(), True),
    "left a stream": ([reads(), says(HEAD + chunk("Hi")), stalls()], body(True), True),
}


async def test_counters_and_rows_never_drift_apart() -> None:
    """Reservations leaked with some endings, so counters stood far above what was really spent.

    After each way for a call to end, and again after a restart, the counters are the sum of rows.
    """
    scripts = [script for script, _, _ in ENDINGS.values()]
    async with gateway(scripts, more='[teams.ops]\nbudget = ["1/total"]\n') as gate:
        for number, (_, said, leaves) in enumerate(ENDINGS.values(), start=1):
            asking = asyncio.create_task(gate.ask(said))
            await until(lambda: len(gate.ups[0].requests) == number)  # noqa: B023 - awaited here
            if leaves:
                for exchange in tuple(_daemon(gate).exchanges):
                    exchange.leave()
            await asking
            await until(lambda: not _daemon(gate).exchanges)
        ledger = _daemon(gate).ledger.path
        await until(lambda: verify(ledger) == [])
        rows = recent(ledger, limit=20)
        assert len(rows) == len(ENDINGS)
        spent = {s.name: s.settled_nanousd for s in _daemon(gate).gate.purse.states()}
        assert spent == {"ann": sum(row.cost_nanousd for row in rows), "ops": 0}
        assert gate.held() == 0


# By limit: what the file says, how many calls it lets through, and what the next one is told.
LIMITS = {
    "rpm": (1, 1, "rate_limit_exceeded"),
    "rpd": (1, 0, "rate_limit_exceeded"),  # there was one today already
    "tpm": (30, 0, "over_rate_limit"),
    "concurrent": (1, 1, "rate_limit_exceeded"),
}
TABLES = {"server", "providers", "routes", "teams", "users", "projects", "keys"}


async def test_every_limit_that_the_file_takes_is_kept_to() -> None:
    """A limit of tokens was read, shown and never applied: nobody had tried that one.

    Each kind of limit at each kind of table refuses what it has no room for. (Those of models on
    this box are tried with such models.)
    """
    go = asyncio.Event()
    go.set()
    more = '[projects.bot]\n[routes.r]\nto = ["up/m"]\n'
    async with limited([[reads(), waits(go), says(whole())]], limits=more) as (gate, clock):
        file = gate.daemon.config
        text = file.read_text().replace('user = "ann"\n', 'user = "ann"\nproject = "bot"\n')
        file.write_text(text)
        await gate.daemon.server.reloader.reload()
        said = body(model="r")
        assert (await gate.ask(said)).status == 200
        tables = [(at, name) for at, name, _ in limits_of(_daemon(gate).gate.config)]
        assert {at for at, _ in tables} == TABLES
        for at, name in tables:
            for what, (most, fits, code) in LIMITS.items():
                clock.passes(120)
                table = ".".join(filter(None, (at, name)))
                file.write_text(f"{text}\n{on(table, **{what: most})}\n")
                await gate.daemon.server.reloader.reload()
                go.clear()
                seen = len(gate.ups[0].requests)
                let_in = [asyncio.create_task(gate.ask(said)) for _ in range(fits)]
                await until(lambda: len(gate.ups[0].requests) == seen + fits)  # noqa: B023
                refusal = await gate.ask(said)
                assert refused(refusal)[1] == code, (table, what)
                go.set()
                assert [(await one).status for one in let_in] == [200] * fits


@pytest.mark.parametrize("theirs", ["", "chatcmpl-1", "01890000-0000-7000-8000-000000000000"])
async def test_an_upstreams_id_is_never_the_ledgers(theirs: str) -> None:
    """Rows were filed under the id that the provider gave: the same one twice, and one was lost."""
    said = whole(WHOLE.replace(b'"id":"chatcmpl-1"', b'"id":' + msgspec.json.encode(theirs)))
    async with gateway([[reads(), says(said)]]) as gate:
        replies = [await gate.ask() for _ in range(3)]
        rows = [await gate.row(reply) for reply in replies]
        assert len({row.call.id for row in rows}) == 3
        assert [row.attempts[0].upstream_id for row in rows] == [theirs] * 3
        (state,) = _daemon(gate).gate.purse.states()
        assert state.settled_nanousd == 3 * COST


async def test_a_clients_id_is_never_the_ledgers_either() -> None:
    """Two calls with one `x-request-id` are two calls: each reached the provider, and is billed."""
    async with gateway([[reads(), says(whole())]]) as gate:
        replies = [await gate.ask(x_request_id="mine", x_tollway_request_id="mine") for _ in "12"]
        assert [(await gate.row(reply)).call.cost_nanousd for reply in replies] == [COST, COST]
        assert len(gate.ups[0].requests) == 2


async def test_a_report_that_is_repeated_with_each_piece_is_counted_once() -> None:
    """Reports that grow with the stream were added up, and spending came out 2.5 times too high."""
    grows = [
        chunk("a").replace(
            b'"choices"',
            b'"usage":{"prompt_tokens":7,"completion_tokens":%d},"choices"' % number,
        )
        for number in (1, 2, 3, 3)
    ]
    script = [reads(), says(HEAD + b"".join(grows) + chunk(finish="stop") + DONE)]
    async with gateway([script]) as gate:
        row = await gate.row(await gate.ask(body(True)))
        assert (row.call.ending, row.call.cost_nanousd) == ("answered", COST)


async def test_an_answer_of_no_tokens_is_billed_as_reported() -> None:
    """A reported zero was taken for no report, and replaced by an estimate that cost something."""
    silent = WHOLE.replace(b'"Hello"', b'""').replace(
        b'"completion_tokens":3', b'"completion_tokens":0'
    )
    async with gateway([[reads(), says(whole(silent))]]) as gate:
        row = await gate.row(await gate.ask())
        assert (row.call.cost_nanousd, row.call.estimated) == (7 * INPUT, False)


async def test_a_stream_of_a_priced_model_is_never_free() -> None:
    """Every streamed row of one provider said $0, for months: no usage came, and nobody noticed.

    Whatever of a report is missing, null or nothing, tokens that came out cost something.
    """
    reports: list[object] = [
        None,
        {},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": 7, "completion_tokens": 0},
        "none",
    ]
    scripts = []
    for report in reports:
        last = b"data: " + msgspec.json.encode({"choices": [], "usage": report}) + b"\n\n"
        scripts.append([reads(), says(HEAD + chunk("Hi", "stop") + last + DONE)])
    async with gateway(scripts) as gate:
        for report in reports:
            row = await gate.row(await gate.ask(body(True)))
            assert row.call.cost_nanousd >= COST, report
            assert row.call.estimated, report


async def test_a_model_without_a_price_is_told_where_nothing_refuses_it() -> None:
    """An unknown model cost $0, silently, in every report: what nobody can price must be seen."""
    async with upstream([reads(), says(whole())]) as up:
        text = config([up]).replace('[prices."up/*"]\ninput = 1\noutput = 2\n', "")
        text = text.replace('budget = ["1/day"]\n', "")
        async with running(text, server="") as daemon:
            gate = Gateway(daemon, [up])
            row = await gate.row(await gate.ask(body(model="up/nobody-knows-1")))
            assert (row.call.cost_nanousd, row.call.unpriced) == (0, True)
            usage = await daemon.ask("GET", "/v1/tollway/usage", authorization=f"Bearer {KEY}")
            assert usage.json()["today"]["unpriced"] == 1
