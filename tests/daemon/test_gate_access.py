"""Who gets in, and what they may call: keys on the wire, levels, lists, refusals."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from gateway import KEY, body, error, gateway, whole
from hypothesis import assume, given
from hypothesis import strategies as st
from multidict import CIMultiDict, MultiDict
from shell import Reply, Running, running
from upstreams import reads, says

from tollway.daemon.alerts import Alerts
from tollway.daemon.config.load import parse
from tollway.daemon.config.schema import Config
from tollway.daemon.errors import ModelNotFound, Unauthorized
from tollway.daemon.gate.authenticate import Keyring
from tollway.daemon.gate.books import Books
from tollway.daemon.gate.gate import Gate
from tollway.daemon.ledger.writer import Ledger
from tollway.daemon.state import Daemon
from tollway.providers.http.client import HttpTransport
from tollway.providers.llamacpp.adapter import LocalModels
from tollway.providers.prices import PriceSource

PRICES = PriceSource()
OTHER = "tw-" + "o" * 40
OLD = "tw-" + "p" * 40
CHAT = "/v1/chat/completions"


def digest(secret: str) -> str:
    """Return a key's hash as the file holds it."""
    return f"sha256:{sha256(secret.encode()).hexdigest()}"


def keyring(more: str, zone: str = "UTC") -> Keyring:
    """Return the keys of a configuration with one key for `KEY`."""
    text = f"""
[server]
timezone = "{zone}"
[ledger]
path = "/nowhere/ledger.db"
[users.ann]
[keys.laptop]
hash = "{digest(KEY)}"
user = "ann"
{more}
"""
    return Keyring(read(text))


def read(text: str) -> Config:
    """Return a configuration from its text."""
    return parse(text, path=Path("/nowhere/gateway.toml"))


def works(ring: Keyring, secret: str, at: datetime) -> bool:
    """Whether a key is let in at a moment."""
    headers = CIMultiDict({"Authorization": f"Bearer {secret}"})
    try:
        ring.find(headers, MultiDict(), at.timestamp(), owner=False)
    except Unauthorized:
        return False
    return True


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"])
@pytest.mark.parametrize("day", [date(2026, 3, 28), date(2026, 10, 24), date(2028, 2, 28)])
def test_a_key_works_through_its_last_day_and_not_a_second_longer(zone: str, day: date) -> None:
    """The day named is the last, in the server's own time, when clocks change that night too."""
    ring = keyring(f"expires = {day}", zone)
    after = day + timedelta(days=1)
    end = datetime(after.year, after.month, after.day, tzinfo=ZoneInfo(zone))
    last = datetime.fromtimestamp(end.timestamp() - 1, UTC)
    assert works(ring, KEY, last)
    assert not works(ring, KEY, end)


def test_a_rotated_key_s_old_secret_works_until_its_grace_ends() -> None:
    """Both until then; afterwards the new one alone."""
    until = datetime(2026, 5, 1, 12, tzinfo=UTC)
    ring = keyring(
        f'[[keys.laptop.previous]]\nhash = "{digest(OLD)}"\nuntil = {until.isoformat()}\n'
    )
    before, at = until - timedelta(seconds=1), until
    assert (works(ring, KEY, before), works(ring, OLD, before)) == (True, True)
    assert (works(ring, KEY, at), works(ring, OLD, at)) == (True, False)


def test_no_grace_outlives_the_key_itself() -> None:
    """An old secret ends with its key, and when the key is revoked."""
    until = datetime(2026, 6, 1, tzinfo=UTC)
    previous = f'[[keys.laptop.previous]]\nhash = "{digest(OLD)}"\nuntil = {until.isoformat()}\n'
    ring = keyring(f"expires = 2026-05-10\n{previous}")
    assert works(ring, OLD, datetime(2026, 5, 10, 23, tzinfo=UTC))
    assert not works(ring, OLD, datetime(2026, 5, 11, tzinfo=UTC))
    revoked = keyring(f"revoked = 2030-01-01\n{previous}")
    now = datetime(2026, 5, 1, tzinfo=UTC)
    assert not works(revoked, OLD, now)
    assert not works(revoked, KEY, now)


FORMS = {
    "bearer": {"Authorization": f"Bearer {KEY}"},
    "bearer in small letters": {"authorization": f"bearer {KEY}"},
    "x-api-key": {"x-api-key": KEY},
    "api-key": {"api-key": KEY},
    "x-goog-api-key": {"x-goog-api-key": KEY},
    "x-tollway-key": {"x-tollway-key": KEY},
    "the same one twice": {"Authorization": f"Bearer {KEY}", "x-api-key": KEY},
    "beside another's": {"Authorization": "Bearer sk-theirs", "x-tollway-key": KEY},
}


async def test_a_key_is_found_wherever_client_libraries_put_it() -> None:
    """Every header form, and `?key=`; the provider sees its own credential alone."""
    async with gateway([[reads(), says(whole())]], provider='api_key = "env:HOME"') as gate:
        for headers in FORMS.values():
            reply = await gate.daemon.ask("POST", CHAT, body(), **headers)  # type: ignore[arg-type]
            assert reply.status == 200, headers
        assert (await gate.daemon.ask("POST", f"{CHAT}?key={KEY}", body())).status == 200
        assert len(gate.ups[0].requests) == len(FORMS) + 1
        for request in gate.ups[0].requests:
            assert KEY.encode() not in request
            assert b"sk-theirs" not in request
            assert b"key=" not in request.partition(b"\r\n")[0]


async def test_a_key_in_a_query_is_never_logged() -> None:
    """Neither where it worked nor where it did not, nor where the path was wrong."""
    async with gateway([[reads(), says(whole())]]) as gate:
        for path in (CHAT, "/v1/models", "/v1/models/up/m", "/nowhere"):
            for secret in (KEY, "tw-" + "w" * 40, "sk-mistaken-for-one"):
                await gate.daemon.ask("POST", f"{path}?key={secret}", body())
                await gate.daemon.ask("GET", f"{path}?a=b&key={secret}")
        await asyncio.to_thread(gate.daemon.server.output.flush)
        log = gate.daemon.log.read_text()
        assert log.count("/nowhere") == 6
        for trace in ("kkkk", "wwww", "sk-mistaken", "key=tw", "?"):
            assert trace not in log


WRONG = {
    "none": {},
    "another's": {"Authorization": "Bearer sk-abc"},
    "unknown": {"Authorization": f"Bearer {OTHER}"},
    "its hash": {"Authorization": f"Bearer {digest(KEY)}"},
    "its hash as a key": {"Authorization": f"Bearer tw-{digest(KEY)[7:]}"},
    "only the start": {"Authorization": f"Bearer {KEY[:-1]}"},
    "longer": {"Authorization": f"Bearer {KEY}k"},
    "capitals": {"Authorization": f"Bearer {KEY.upper()}"},
    "no scheme": {"Authorization": KEY},
    "basic": {"Authorization": f"Basic {KEY}"},
    "a cookie": {"Cookie": f"key={KEY}"},
    "in bytes that are no text": {"x-api-key": "tw-\udcff\udcfe" + "k" * 40},
}


@pytest.mark.parametrize("form", WRONG)
async def test_what_is_no_key_is_refused_before_the_body_is_read(form: str) -> None:
    """401 at once, though the body that was announced never comes."""
    async with gateway([[reads(), says(whole())]]) as gate:
        client = await gate.daemon.connect()
        lines = [f"{name}: {value}" for name, value in WRONG[form].items()]
        head = "\r\n".join(
            [f"POST {CHAT} HTTP/1.1", f"Host: {gate.daemon.host.decode()}",
             "Content-Type: application/json", "Content-Length: 100", *lines, "", ""]
        )  # fmt: skip
        await client.send(head.encode("utf-8", "surrogateescape"))
        reply = await client.answer()
        assert (reply.status, error(reply)["code"]) == (401, "invalid_api_key")
        assert gate.ups[0].requests == []


TWO = {
    "two headers": f"Authorization: Bearer {KEY}\r\nx-api-key: {OTHER}",
    "two of one name": f"x-api-key: {KEY}\r\nx-api-key: {OTHER}",
    "in the other order": f"x-api-key: {OTHER}\r\nx-api-key: {KEY}",
    "the first is another's": f"x-api-key: sk-1\r\nx-api-key: {KEY}\r\napi-key: {OTHER}",
    "two bearers": f"Authorization: Bearer {KEY}\r\nAuthorization: Bearer {OTHER}",
}


@pytest.mark.parametrize("form", TWO)
async def test_two_different_keys_are_refused(form: str) -> None:
    """Whose call it is must never depend on which header is looked at first."""
    async with gateway([[reads(), says(whole())]]) as gate:
        said = body()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: {gate.daemon.host.decode()}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(said)}\r\n{TWO[form]}\r\n\r\n"
        )
        status = (await gate.daemon.raw(head.encode() + said)).partition(b"\r\n")[0]
        assert status.split()[1] in {b"400", b"401"}
        assert gate.ups[0].requests == []


async def test_two_different_keys_in_a_query_are_refused() -> None:
    """As in headers; and one in a header beside another in the query."""
    async with gateway([[reads(), says(whole())]]) as gate:
        two = await gate.daemon.ask("POST", f"{CHAT}?key={KEY}&key={OTHER}", body())
        mixed = await gate.ask(path=f"{CHAT}?key={OTHER}")
        assert (two.status, mixed.status) == (401, 401)
        assert gate.ups[0].requests == []


async def test_unknown_revoked_and_expired_keys_look_alike() -> None:
    """Whoever guesses learns nothing from the answer but that it is no."""
    more = f"""
[keys.gone]
hash = "{digest(OLD)}"
user = "ann"
revoked = 2026-01-01
[keys.late]
hash = "{digest(OTHER)}"
user = "ann"
expires = 2026-01-01
"""
    async with gateway([[reads(), says(whole())]], more=more) as gate:
        replies = [
            await gate.ask(authorization=f"Bearer {secret}")
            for secret in (OLD, OTHER, "tw-" + "u" * 40)
        ]
        assert {reply.status for reply in replies} == {401}
        assert len({bare(reply) for reply in replies}) == 1


def bare(reply: Reply) -> bytes:
    """Return a body without the call's own id."""
    call_id = reply.headers["x-tollway-request-id"]
    assert reply.body.count(call_id.encode()) == 1
    return reply.body.replace(call_id.encode(), b"ID")


async def test_forbidden_and_unknown_are_the_same_answer_to_the_byte() -> None:
    """Same status, same body, same headers but for the ids: nobody can list what they may not."""
    more = '[routes.shut]\nto = ["up/x"]\n[groups.few]\nmodels = ["up/m"]\n'
    async with gateway([[reads(), says(whole())]], more=more) as gate:
        text = gate.daemon.config.read_text().replace('groups = ["all"]', 'groups = ["few"]')
        gate.daemon.config.write_text(text)
        await gate.daemon.server.reloader.reload()
        for ask in (call, look_up):
            forbidden, unknown = await ask(gate.daemon, "shut"), await ask(gate.daemon, "none")
            assert (forbidden.status, unknown.status) == (404, 404)
            assert bare(forbidden).replace(b"shut", b"none") == bare(unknown)
            ids = {"x-tollway-request-id", "x-request-id", "date"}
            ours = [
                {name: value for name, value in one.headers.items() if name not in ids}
                for one in (forbidden, unknown)
            ]
            assert ours[0] == ours[1]
        assert gate.ups[0].requests == []


async def call(daemon: Running, name: str) -> Reply:
    """Call a model."""
    return await daemon.ask("POST", CHAT, body(model=name), authorization=f"Bearer {KEY}")


async def look_up(daemon: Running, name: str) -> Reply:
    """Look a model up in the list."""
    return await daemon.ask("GET", f"/v1/models/{name}", authorization=f"Bearer {KEY}")


async def test_an_excepted_target_of_an_allowed_route_is_skipped() -> None:
    """The route's other targets are tried, in order; the excepted provider hears nothing."""
    more = """
[routes.fast]
to = ["up/secret", "up1/m"]
[groups.few]
models = ["fast"]
except = ["*/secret"]
"""
    script = [reads(), says(whole())]
    async with gateway([script], [script], more=more) as gate:
        text = gate.daemon.config.read_text().replace('groups = ["all"]', 'groups = ["few"]')
        gate.daemon.config.write_text(text)
        await gate.daemon.server.reloader.reload()
        reply = await gate.ask(body(model="fast"))
        assert (reply.status, reply.headers["x-tollway-target"]) == (200, "up1/m")
        assert (await gate.ask(body(model="up1/m"))).status == 404  # the route is allowed, not it
        assert gate.ups[0].requests == []


async def test_nothing_said_is_nothing_allowed() -> None:
    """A key that no level says anything about calls nothing and sees nothing."""
    more = f'[users.eve]\n[keys.bare]\nhash = "{digest(OTHER)}"\nuser = "eve"\n'
    async with gateway([[reads(), says(whole())]], more=more) as gate:
        sent = {"authorization": f"Bearer {OTHER}"}
        listed = await gate.daemon.ask("GET", "/v1/models", **sent)  # type: ignore[arg-type]
        assert listed.json() == {"object": "list", "data": []}
        assert (await gate.ask(**sent)).status == 404  # type: ignore[arg-type]


async def test_single_user_and_the_owner_may_use_everything() -> None:
    """On loopback with `single_user`, and on the admin socket with it and without."""
    more = '[providers.up]\nkind = "openai-compatible"\nbase_url = "http://127.0.0.1:1/v1"\n'
    more += '[routes.fast]\nto = ["up/m"]\n'
    for server, public in (("single_user = true", 200), ("", 401)):
        async with running(more, server=server) as daemon:
            assert (await daemon.ask("GET", "/v1/models")).status == public
            owner = await daemon.ask("GET", "/v1/models", admin=True)
            assert [model["id"] for model in owner.json()["data"]] == ["fast", "up/m"]


# -- rules over all configurations ---------------------------------------------------------------

GLOBS = st.sampled_from(["*", "a", "b", "p/*", "q/*", "*/x", "p/x", "q/z", "?", "[ab]", "p/[!x]"])
GROUP = st.tuples(st.lists(GLOBS, min_size=1, max_size=3), st.lists(GLOBS, max_size=2))
LISTS = st.lists(st.integers(0, 3), max_size=2, unique=True)


@st.composite
def setups(draw: st.DrawFn) -> dict[str, Any]:
    """Return groups, and which of them each level has."""
    return {
        "groups": draw(st.lists(GROUP, min_size=4, max_size=4)),
        "key": draw(st.lists(GLOBS, max_size=2)),
        "user": draw(LISTS),
        "team": draw(LISTS),
        "project": draw(LISTS),
    }


def text_of(setup: dict[str, Any]) -> str:
    """Return a setup as a configuration."""
    lines = ['[ledger]\npath = "/nowhere/ledger.db"']
    for provider in ("p", "q"):
        lines.append(
            f'[providers.{provider}]\nkind = "openai-compatible"\n'
            f'base_url = "http://127.0.0.1:1/v1"\nserves = ["bare-{provider}"]'
        )
    lines.append('[routes.a]\nto = ["p/x", "q/x"]\n[routes.b]\nto = ["p/y"]\nfallback = ["c"]')
    lines.append('[routes.c]\nto = ["q/z"]')
    for number, (models, excluded) in enumerate(setup["groups"]):
        lines.append(f"[groups.g{number}]\nmodels = {models}\nexcept = {excluded}")

    def groups(level: str) -> str:
        return f"groups = {[f'g{number}' for number in setup[level]]}" if setup[level] else ""

    lines.append(f"[teams.t]\n{groups('team')}")
    lines.append(f'[users.u]\nteam = "t"\n{groups("user")}')
    lines.append(f'[projects.j]\nteam = "t"\n{groups("project")}')
    lines.append(f'[keys.k]\nhash = "{digest(KEY)}"\nuser = "u"\nproject = "j"')
    lines.append(f"models = {setup['key']}" if setup["key"] else "")
    return "\n".join(lines)


def gate_of(setup: dict[str, Any], folder: Path) -> Gate:
    """Return a gate built from a setup; nothing of its daemon has been started."""
    daemon = Daemon(
        ledger=Ledger(folder / "ledger.db"),
        books=Books(),
        transport=HttpTransport(),
        local=LocalModels(log_folder=folder),
        prices=PRICES,
    )
    daemon.alerts = Alerts(daemon.ledger, daemon.transport)
    return Gate(read(text_of(setup)), daemon, {"p": (), "q": ()})


def levels(setup: dict[str, Any]) -> list[tuple[list[str], list[str]]]:
    """Return what each level that says anything allows and excepts, by the rule's own words."""
    said: list[tuple[list[str], list[str]]] = [(setup["key"], [])] if setup["key"] else []
    for level in ("user", "project", "team"):
        groups = [setup["groups"][number] for number in setup[level]]
        if groups:
            said.append(([one for models, _ in groups for one in models],
                         [one for _, excluded in groups for one in excluded]))  # fmt: skip
    return said


def may(setup: dict[str, Any], name: str, targets: list[str]) -> list[str]:
    """Return the targets that a name may reach, computed the slow and plain way."""
    said = levels(setup)

    def matches(value: str, globs: list[str]) -> bool:
        return any(fnmatchcase(value, one) for one in globs)

    if not said or any(not matches(name, yes) or matches(name, no) for yes, no in said):
        return []
    return [target for target in targets if not any(matches(target, no) for _, no in said)]


TARGETS = {
    "a": ("a", ["p/x", "q/x"]),
    "b": ("b", ["p/y", "q/z"]),
    "c": ("c", ["q/z"]),
    "p/x": ("p/x", ["p/x"]),
    "q/x": ("q/x", ["q/x"]),
    "p/y": ("p/y", ["p/y"]),
    "q/z": ("q/z", ["q/z"]),
    "p/unlisted": ("p/unlisted", ["p/unlisted"]),
    "bare-p": ("p/bare-p", ["p/bare-p"]),
    "A": ("", []),
    "nothing": ("", []),
}
UNLISTED = {"p/unlisted", "bare-p"}


def reach(gate: Gate, name: str) -> list[str]:
    """Return the targets of a name's plan, none where it is refused."""
    try:
        return [target.name for target in gate.plan(gate.keyring.callers["k"], name).targets]
    except ModelNotFound:
        return []


@given(setup=setups())
def test_a_plan_goes_where_every_level_allows_and_the_list_shows_just_that(
    setup: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every level that says anything must allow the name; excepted targets are skipped."""
    gate = gate_of(setup, tmp_path_factory.getbasetemp())
    for name, (matched, targets) in TARGETS.items():
        assert reach(gate, name) == may(setup, matched, targets), name
    caller = gate.keyring.callers["k"]
    listed = [name for name in gate.router.names if gate.may_list(caller, name)]
    assert len(listed) == len(set(listed))
    assert set(listed) == {name for name in TARGETS if reach(gate, name)} - UNLISTED


@given(setup=setups(), level=st.sampled_from(["key", "user", "team", "project"]), more=st.data())
def test_another_level_never_widens(
    setup: dict[str, Any],
    level: str,
    more: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Once anything is said, one more level, whatever it says, can only take away."""
    without = {**setup, level: []}
    assume(levels(without))
    choice = st.lists(GLOBS if level == "key" else st.integers(0, 3), min_size=1, max_size=2)
    within = {**setup, level: more.draw(choice)}
    folder = tmp_path_factory.getbasetemp()
    before, after = gate_of(without, folder), gate_of(within, folder)
    for name in TARGETS:
        assert set(reach(after, name)) <= set(reach(before, name))


@given(setup=setups(), number=st.integers(0, 3), glob=GLOBS)
def test_another_exception_never_widens(
    setup: dict[str, Any], number: int, glob: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What a group excepts is closed, whatever another group of the same level allows."""
    groups = list(setup["groups"])
    groups[number] = (groups[number][0], [*groups[number][1], glob])
    folder = tmp_path_factory.getbasetemp()
    before, after = gate_of(setup, folder), gate_of({**setup, "groups": groups}, folder)
    for name in TARGETS:
        assert set(reach(after, name)) <= set(reach(before, name))
