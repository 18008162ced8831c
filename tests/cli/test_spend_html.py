"""`spend --format html`: one file that holds all it shows, whose numbers are the ledger's."""

import asyncio
import json
import re
import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from browser import CHROMIUM
from hypothesis import given
from hypothesis import strategies as st
from ledger_rows import AT_MS, attempt, closed, opened
from ledger_rows import ended as answered
from needed import needed
from program import Home
from spend_year import write

from tollway.cli import show
from tollway.cli.spend_html import COLOURS, scale, shares_of
from tollway.daemon.ledger.schema import TOKENS
from tollway.daemon.ledger.spend import SpendRow
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger

TOML = """[server]
listen = "127.0.0.1:0"
single_user = true
budget = ["40/month"]
[providers.anthropic]
kind = "anthropic"
discount = 0.9
commit = { usd = 500, per = "month" }
"""
SPAN = ("--since", "2025-11-20", "--until", "2026-10-02", "--tz", "America/Santiago")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return a home with a year of calls, one team of which has a name that is HTML."""
    made = Home(tmp_path_factory.mktemp("page"))
    made.write(TOML)
    made.data.mkdir(parents=True, mode=0o700)
    write(made.data / "ledger.db", 1500, names={"web": "<script>alert(1)</script>&"})
    assert verify(made.data / "ledger.db") == []
    return made


def said(home: Home, *words: str) -> str:
    """Return what `spend` prints of the span."""
    ended = home.tollway("spend", *SPAN, *words)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


class Page(HTMLParser):
    """What the page says: its elements, and the exact amounts of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.amounts: dict[str, list[int]] = {}
        self._part: list[str] = []
        self._table = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element, and an amount in the table and part that it stands in."""
        has = dict(attrs)
        self.tags.append((tag, has))
        if tag == "table":
            self._table = has.get("id") or ""
        if tag in ("tbody", "tfoot"):
            self._part.append(tag)
        if (exact := has.get("data-nanousd")) is not None:
            self.amounts.setdefault(f"{self._table} {self._part[-1]}", []).append(int(exact))


def test_the_page_holds_all_that_it_shows(home: Home) -> None:
    """No script, no address, nothing that a name could smuggle in; each chart has words."""
    text = said(home, "--by", "team,model", "--format", "html")
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "img", "iframe", "object", "a"} & set(names)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in text
    for _, has in page.tags:
        assert not {"src", "href", "onclick", "onload"} & set(has), has
    addresses = set(re.findall(r"https?://[^\"' <]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # the name of SVG, which nobody fetches
    assert "@import" not in text
    assert "url(" not in text
    charts = [has for tag, has in page.tags if tag == "svg"]
    assert len(charts) == 4  # two charts, wide and narrow
    assert all(has["role"] == "img" and has["aria-label"] for has in charts)
    assert "prefers-color-scheme: dark" in text
    assert {"main", "h1", "caption", "meter", "tfoot"} <= set(names)
    assert all(has.get("scope") for tag, has in page.tags if tag == "th")


async def test_a_surcharge_is_not_called_a_saving(tmp_path: Path) -> None:
    """A provider's discount may be above 1; the tile says what was paid above list prices."""
    made = Home(tmp_path)
    made.write(TOML)
    made.data.mkdir(parents=True, mode=0o700)
    ledger = Ledger(made.data / "ledger.db")
    ledger.start()
    call = opened(1)
    await ledger.admit(call, attempt(call))
    dear = answered(attempt(call), 6 * 10**9, saved_nanousd=-(10**9))
    await ledger.settle(closed(call), dear)
    await ledger.close()
    text = said(made, "--format", "html")
    assert "<dt>paid</dt><dd>$6.00<small>of $5.00 at list prices</small>" in text
    assert "<dt>surcharge</dt><dd>$1.00</dd>" in text


@pytest.mark.parametrize("by", ["team,model", "tag:branch", "week", "session"])
def test_all_forms_say_the_same_of_a_year(home: Home, by: str) -> None:
    """Page, JSON, CSV and Markdown: to the nano-dollar where they are exact."""
    data = json.loads(said(home, "--by", by, "--json"))
    total = data["total"]
    assert total["cost_nanousd"] > 10**9
    page = Page(said(home, "--by", by, "--format", "html"))
    pairs = page.amounts["spend tbody"]
    assert pairs[::2] == [row["cost_nanousd"] for row in data["rows"]]
    assert pairs[1::2] == [row["saved_nanousd"] for row in data["rows"]]
    assert page.amounts["spend tfoot"] == [total["cost_nanousd"], total["saved_nanousd"]]
    assert sum(page.amounts["days tbody"]) == total["cost_nanousd"]
    assert sum(day["cost_nanousd"] for day in data["days"]) == total["cost_nanousd"]
    _, *lines = said(home, "--by", by, "--format", "csv").splitlines()
    assert len(lines) == len(data["rows"])
    shown = [line for line in said(home, "--by", by, "--format", "markdown").splitlines() if line]
    assert sum(line.startswith("|") for line in shown) == len(lines) + 3


def test_every_chart_is_well_formed(home: Home) -> None:
    """Also as XML, so that strict readers take it."""
    text = said(home, "--by", "team", "--format", "html")
    found = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    for one in found:
        plain = re.sub(r"<style.*?</style>", "", one, flags=re.DOTALL)
        plain = re.sub(r"<br>", "", plain)
        assert ElementTree.fromstring(plain).tag.endswith("svg")  # noqa: S314 - our own text
    assert found


@given(st.integers(1, 10**16), st.integers(2, 8))
def test_a_scale_says_what_is_true(most: int, steps: int) -> None:
    """Its labels read back as the amounts that they stand at, all of it lies below the last."""
    marks = scale(most, steps)
    assert marks[-2] < most <= marks[-1]
    assert 2 <= len(marks) <= steps + 1
    assert len({after - before for before, after in pairwise(marks)}) == 1
    said = [show.money(mark).removeprefix("$").replace(",", "") for mark in marks]
    assert [Decimal(text) * 10**9 for text in said] == marks


@pytest.mark.parametrize("cost", [1, 42, 300_000, 9_900_000, 10_500_000, 3 * 10**9, 10**15])
def test_the_scales_of_both_charts_are_labelled(tmp_path: Path, cost: int) -> None:
    """Sums under a cent too, each mark with its own amount: none but the first says $0.00."""
    made = Home(tmp_path)
    made.write('[server]\nlisten = "127.0.0.1:0"\nsingle_user = true\n')
    made.data.mkdir(parents=True, mode=0o700)
    ledger = Ledger(made.data / "ledger.db")
    ledger.start()
    # Of two days and two models, so that there are both charts.
    asyncio.run(_booked(ledger, cost))
    ended = made.tollway("spend", "--by", "model", "--since", "2026-01-01", "--format", "html")
    assert ended.returncode == 0, ended.stderr
    charts = re.findall(r"<svg.*?</svg>", ended.stdout, re.DOTALL)
    assert len(charts) == 4
    for chart in charts:
        labels = re.findall(r"<text[^>]*>(\$[^<]*)</text>", chart)
        assert len(labels) >= 2
        assert len(set(labels)) == len(labels)
        assert labels.count("$0.00") == 1


async def _booked(ledger: Ledger, cost: int) -> None:
    for number, model in enumerate(("gpt-4o", "gpt-5")):
        call = opened(number + 1, at_ms=AT_MS + number * 86_400_000)
        tried = attempt(call, model=model)
        await ledger.admit(call, tried)
        await ledger.settle(closed(call), answered(tried, cost))
    await ledger.close()


def test_what_has_nothing_to_show_is_still_a_page(tmp_path: Path) -> None:
    """No ledger: a page that says nothing was spent."""
    made = Home(tmp_path)
    made.write('[server]\nlisten = "127.0.0.1:0"\nsingle_user = true\n')
    ended = made.tollway("spend", "--format", "html")
    assert ended.returncode == 0, ended.stderr
    page = Page(ended.stdout)
    assert page.amounts["spend tfoot"] == [0]
    assert "svg" not in [tag for tag, _ in page.tags]


def test_many_groups_are_few_colours() -> None:
    """The dearest have their own, the rest one together, and nothing is lost."""
    rest = dict.fromkeys(
        (*TOKENS, "calls", "refused", "attempts", "overrun_nanousd", "estimated_nanousd"), 0
    )
    rows = [
        SpendRow(group=(day, f"m{number}"), cost_nanousd=number, unpriced=0, **rest)
        for day in ("2026-01-01", "2026-01-03")
        for number in range(10)
    ]
    found = shares_of(rows, "day", ("2026-01-01", "2026-01-02", "2026-01-03"), "model")
    assert len(found.series) == COLOURS
    assert found.series[-1] == ("(5 others)", (10, 0, 10))
    assert [sum(costs) for costs in zip(*(costs for _, costs in found.series), strict=True)] == [
        *(45, 0, 45)
    ]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[list[str]]:
    """Return how Chromium is started without a screen and without a word to anybody."""
    yield [
        *(needed(*CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *(
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=2000",
        ),
    ]


def pixels(picture: Path) -> Counter[int]:
    """Return how many pixels of a PNG have each colour: 8 bits a channel, as Chromium writes."""
    data = picture.read_bytes()
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    size = {2: 3, 6: 4}[kind]
    assert depth == 8
    packed, at = b"", 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += length + 12
    raw, step = zlib.decompress(packed), width * size
    above = bytearray(step)
    found: Counter[tuple[int, int, int]] = Counter()
    for row in range(height):
        begin = row * (step + 1)
        line = bytearray(raw[begin + 1 : begin + 1 + step])
        unfilter(raw[begin], line, above, size)
        found.update(zip(line[::size], line[1::size], line[2::size], strict=True))
        above = line
    return Counter({red << 16 | green << 8 | blue: n for (red, green, blue), n in found.items()})


def unfilter(kind: int, line: bytearray, above: bytearray, size: int) -> None:
    """Undo a PNG line's filter, in place."""
    for at in range(len(line) if kind else 0):
        left = line[at - size] if at >= size else 0
        corner = above[at - size] if at >= size else 0
        up = above[at]
        match kind:
            case 1:
                guess = left
            case 2:
                guess = up
            case 3:
                guess = (left + up) // 2
            case _:
                whole = left + up - corner
                guess = min((left, up, corner), key=lambda one: abs(whole - one))
        line[at] = (line[at] + guess) & 255


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        *(("light", 1200), ("dark", 390)),
        *(pytest.param(*one, marks=pytest.mark.long) for one in (("light", 390), ("dark", 1200))),
    ],
)
def test_a_browser_draws_it(
    home: Home, browser: list[str], tmp_path: Path, width: int, scheme: str
) -> None:
    """Bars and page have the scheme's colours at both widths; the tables are what was written."""
    path = tmp_path / "spend.html"
    path.write_text(said(home, "--by", "team", "--format", "html"))
    picture = tmp_path / "page.png"
    subprocess.run(
        [
            *browser,
            f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            f"--window-size={width},1400",
            f"--screenshot={picture}",
            path.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    seen = subprocess.run(
        [*browser, "--dump-dom", path.as_uri()],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert Page(seen).amounts == Page(path.read_text()).amounts
    colours = pixels(picture)
    bars, ground = {"light": (0x0072B2, 0xFFFFFF), "dark": (0x4FA8E0, 0x12161C)}[scheme]
    assert colours[bars] > 2000
    assert colours.most_common(1)[0][0] == ground
