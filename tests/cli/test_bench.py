"""`bench`: measures something real, says on what, and leaves nothing behind."""

import json
from pathlib import Path

import pytest
from program import Home

from tollway.daemon.bench_gateway import BenchGateway, upstream
from tollway.providers.errors import GatewayError

pytestmark = pytest.mark.whole

QUICK = ("--seconds", "0.2", "--connections", "3", "--streams", "4")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home whose temporary files are its own."""
    made = Home(tmp_path / "home")
    for folder in (made.path, tmp_path / "tmp"):
        folder.mkdir()
    made.env["TMPDIR"] = str(tmp_path / "tmp")
    return made


def test_every_call_that_was_measured_was_billed(home: Home, tmp_path: Path) -> None:
    """What is measured is the gateway with everything on: the ledger has each call."""
    done = home.tollway("bench", *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert (data["connections"], data["seconds"]) == (3, 0.2)
    for party in ("direct", "tollway"):
        assert data[party]["one"]["calls"] > 0
        assert data[party]["many"]["calls"] > 0
        assert data[party]["streams"]["streams"] == 4
        assert data[party]["streams"]["events"] >= 4 * 100
    counted = sum(data["tollway"][part]["calls"] for part in ("one", "many")) + 4
    assert data["ledger_calls"] >= counted  # those of the first moment are billed, not counted
    assert "cores" in data["machine"]
    assert "This takes about " in done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []
    assert list(home.path.iterdir()) == []  # nothing of the person's own is made or needed


def test_the_table_compares_both_ways(home: Home) -> None:
    """A line for each figure, with what the gateway makes of it."""
    done = home.tollway("bench", *QUICK)
    assert done.returncode == 0, done.stderr
    titles, *lines = done.stdout.splitlines()
    assert titles.split() == ["direct", "tollway", "difference"]
    assert any(line.startswith("calls/s, 3 connections") and line.endswith("x") for line in lines)
    assert any(line.startswith("first event p99, 4 streams") for line in lines)
    assert "its ledger billed" in done.stderr


@pytest.mark.parametrize("words", [["--seconds", "0"], ["--connections", "1"], ["--streams", "x"]])
def test_what_cannot_be_measured_is_a_usage_error(home: Home, words: list[str]) -> None:
    """Nothing is started for it."""
    done = home.tollway("bench", *words)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_gateway_that_does_not_start_says_why(tmp_path: Path) -> None:
    """Its last words are in the error; the upstream ends with its block all the same."""
    with upstream(10, 50.0) as url:
        gateway = BenchGateway(tmp_path, {"bench": url})
        gateway.file.write_text("[server\n")
        with pytest.raises(GatewayError, match="is not ready"):
            gateway.start()
        gateway.stop()
