"""Which price wins, how the user's own prices read, and how the bundled ones are kept."""

import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from tollway.daemon.config.schema import ImageKind, PriceOverride
from tollway.providers.canon import Price, Usage
from tollway.providers.money import cost, worst_case
from tollway.providers.prices import FREE, PriceSource, PriceTable, discounted, override

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder that one source has filled."""
    made = tmp_path_factory.mktemp("cache")
    PriceSource(made)
    return made


def kept(folder: Path) -> Path:
    """Return the one file in a cache folder."""
    (file,) = folder.iterdir()
    return file


def knows_its_prices(source: PriceSource) -> bool:
    """Return whether a source has what every source has."""
    price = source.find("openai", "gpt-4o-mini", NOW)
    return price is not None and price.input.usd == Decimal("0.15")


def flat(usd: str) -> Price:
    """Return a price that is the same for every token."""
    return override(PriceOverride(input=Decimal(usd), output=Decimal(usd)))


def run(code: str, *arguments: str, cwd: Path) -> str:
    """Run Python in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=cwd,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


# --- Overrides


def test_the_exact_name_wins_then_the_closest_glob_then_the_bundled_price(folder: Path) -> None:
    """A person's word is above the data, and the narrower word above the wider."""
    table = PriceTable(
        PriceSource(folder),
        {
            "*": flat("1"),
            "box2/*": flat("2"),
            "box2/qwen3-*": flat("3"),
            "box2/*-32b": flat("4"),
            "box2/qwen3-32b": flat("5"),
        },
    )

    def usd(provider: str, model: str) -> Decimal:
        price = table.price(provider, None, model, NOW)
        assert price is not None
        return price.input.usd

    assert usd("box2", "qwen3-32b") == 5
    assert usd("box2", "qwen3-8b") == 3
    assert usd("box2", "llama-32b") == 4
    assert usd("box2", "meta/llama") == 2
    assert usd("elsewhere", "llama") == 1


def test_of_two_globs_as_close_the_first_in_the_file_wins(folder: Path) -> None:
    """Nothing depends on how a dictionary is sorted."""
    table = PriceTable(PriceSource(folder), {"a/*x": flat("1"), "a/x*": flat("2")})
    assert table.price("a", None, "xx", NOW) == flat("1")


def test_models_at_one_price_share_it(folder: Path) -> None:
    """A price is turned into whole numbers once, and not anew whenever another model was called."""
    price = flat("1")
    table = PriceTable(
        PriceSource(folder), {"openai/*": price}, {"openai": Decimal("0.9")}, ["openai/*"]
    )
    first = table.price("openai", "openai", "gpt-5", NOW)
    assert first is not None
    assert [one.service for one in first.services] == ["priority", "fast"]
    assert table.price("openai", "openai", "gpt-5.1", NOW) is first
    assert table.price("openai", "openai", "gpt-4", NOW) == discounted(price, Decimal("0.9"))


def test_without_an_override_the_bundled_price_is_in_force(folder: Path) -> None:
    """The table asks under the name that genai-prices has for the provider, not under ours."""
    source = PriceSource(folder)
    table = PriceTable(source, {"mine/gpt-4o": FREE})
    assert table.price("mine", "openai", "gpt-4o", NOW) is FREE
    assert table.price("mine", "openai", "gpt-4o-mini", NOW) == source.find(
        "openai", "gpt-4o-mini", NOW
    )
    assert table.price("mine", None, "gpt-4o-mini", NOW) is None
    assert table.price("mine", "openai", "no-such-model", NOW) is None


def test_a_kept_answer_gives_way_when_its_time_is_over(folder: Path) -> None:
    """DeepSeek's night price ended at 00:30 UTC; a clock that steps back finds it again."""
    source = PriceSource(folder)
    table = PriceTable(source, {})
    end = datetime(2025, 3, 2, 0, 30, tzinfo=UTC)
    moments = [end - timedelta(hours=2), end - timedelta(microseconds=1), end, end, end]
    for at in (*moments, end - timedelta(seconds=1), end + timedelta(days=400)):
        expected = source.find("deepseek", "deepseek-chat", at)
        assert table.price("ds", "deepseek", "deepseek-chat", at) == expected
    assert table.price("ds", "deepseek", "deepseek-chat", end) != table.price(
        "ds", "deepseek", "deepseek-chat", moments[0]
    )


def test_names_that_callers_make_up_do_not_pile_up(folder: Path) -> None:
    """The table keeps answers, not every name that was ever asked for."""
    table = PriceTable(PriceSource(folder), {"box/*": FREE})
    for number in range(25_000):
        assert table.price("box", None, f"made-up-{number}", NOW) is FREE
    assert len(table._kept) <= 10_000


def test_a_name_in_other_letters_has_no_other_price(folder: Path) -> None:
    """A caller who asks for "GPT-4o" may not get past the price that was set for "gpt-4o"."""
    table = PriceTable(
        PriceSource(folder),
        {"openai/gpt-4o": flat("1"), "box/big-*": flat("2"), "box/Big-*": flat("3")}
        | {"box/Qwen": flat("4"), "box/qwen": flat("5"), "*/*": flat("6")},
    )
    usd = {
        "openai/GPT-4O": 1,
        "box/big-1": 2,
        "box/BIG-1": 2,
        "box/Big-1": 3,
        "box/Qwen": 4,
        "box/qwen": 5,
        "box/QWEN": 4,
        "openai/gpt-4o-mini": 6,
    }
    for name, expected in usd.items():
        provider, _, model = name.partition("/")
        price = table.price(provider, "openai", model, NOW)
        assert price is not None
        assert price.input.usd == expected, name


def test_only_stars_and_question_marks_stand_for_more(folder: Path) -> None:
    """Brackets are letters of a name, not a choice among letters."""
    table = PriceTable(PriceSource(folder), {"box/m[ab]*": flat("1"), "box/m?": flat("2")})
    assert table.override_of("box/m[ab]-1") == "box/m[ab]*"
    assert table.override_of("box/ma") == "box/m?"
    assert table.override_of("box/mab") is None


def test_a_service_tier_of_an_override_costs_its_factor_of_every_token() -> None:
    """Fees are for the call, whatever tier serves it."""
    said = PriceOverride(
        input=Decimal("0.1"),
        output=Decimal(2),
        cached_input=Decimal("0.01"),
        request=Decimal("0.001"),
        service_tiers={"priority": Decimal("1.75"), "flex": Decimal("0.5")},
    )
    price = override(said)
    usage = Usage(input=1000, cache_read=1000, output=1000)
    assert cost(usage, price) == 2_110_000 + 1_000_000
    by_tier = {one.service: cost(usage, one) for one in price.services}
    assert by_tier == {"priority": 3_692_500 + 1_000_000, "flex": 1_055_000 + 1_000_000}
    assert len({price.id, *(one.id for one in price.services)}) == 3


def test_an_override_reads_as_dollars_for_a_million_tokens() -> None:
    """[prices."openai/gpt-4o-mini"] with every key that it may have."""
    price = override(
        PriceOverride(
            input=Decimal("1"),
            output=Decimal("2"),
            cached_input=Decimal("0.5"),
            cache_write=Decimal("1.25"),
            cache_write_1h=Decimal("1.5"),
            audio_input=Decimal("3"),
            reasoning=Decimal("4"),
            audio_output=Decimal("5"),
            image_input=Decimal("6"),
            image_output=Decimal("7"),
            request=Decimal("0.01"),
            search=Decimal("0.002"),
            context_window=8192,
        )
    )
    each = {
        "input": 1_000_000,
        "output": 2_000_000,
        "cache_read": 500_000,
        "cache_write": 1_250_000,
        "cache_write_1h": 1_500_000,
        "audio_input": 3_000_000,
        "reasoning": 4_000_000,
        "audio_output": 5_000_000,
        "image_input": 6_000_000,
        "image_output": 7_000_000,
        "searches": 2_000_000_000,
    }
    assert each.keys() == set(Usage.__struct_fields__) - {"estimated"}
    for name, nanousd in each.items():
        assert (
            cost(msgspec.structs.replace(Usage(), **{name: 1000}), price) == nanousd + 10_000_000
        ), name
    assert (price.source, price.context_window) == ("gateway.toml", 8192)


def test_free_is_free_whatever_is_used() -> None:
    """What the user calls free holds nothing and costs nothing."""
    everything = Usage(input=10**6, cache_read=10**6, cache_write=10**6, reasoning=10**6)
    assert (cost(everything, FREE), worst_case(10**9, 10**9, FREE)) == (0, 0)
    assert FREE.free
    assert FREE.id == "free"


# --- Ids


def test_equal_prices_have_one_id_and_different_ones_two() -> None:
    """0.5 and 0.50 are one price; any other field makes another."""
    base = PriceOverride(input=Decimal("0.5"), output=Decimal("1"))
    assert override(base).id == override(PriceOverride(Decimal("0.50"), Decimal("1.0"))).id
    others = {
        override(msgspec.structs.replace(base, **{name: Decimal("0.7")})).id
        for name in PriceOverride.__struct_fields__
        if name not in ("context_window", "service_tiers", "images")
    }
    others.add(override(msgspec.structs.replace(base, context_window=7)).id)
    tiers = msgspec.structs.replace(base, service_tiers={"flex": Decimal("0.5")})
    others.add(override(tiers).id)
    images = msgspec.structs.replace(base, images={ImageKind("high"): Decimal("0.7")})
    others.add(override(images).id)
    assert len(others - {override(base).id}) == len(PriceOverride.__struct_fields__)


def test_an_id_is_the_same_on_every_machine_and_in_every_version() -> None:
    """Rows of years ago point to it: this one was written down."""
    assert flat("1.5").id == "cabbbb39a58556b7"


# --- The file


def test_the_data_are_distilled_once(folder: Path) -> None:
    """The second daemon reads what the first one kept."""
    before = kept(folder).stat()
    assert knows_its_prices(PriceSource(folder))
    after = kept(folder).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other", "text"])
def test_a_damaged_file_is_made_anew(folder: Path, tmp_path: Path, damage: str) -> None:
    """A bit that fell over on the disk may not change what a model costs."""
    good = kept(folder).read_bytes()
    middle = len(good) // 2
    other = msgspec.msgpack.encode({"names": [], "providers": 7})
    file = tmp_path / kept(folder).name
    file.write_bytes(
        {
            "empty": b"",
            "cut": good[:middle],
            "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            "other": sha256(other).digest() + other,
            "text": b"not what it was",
        }[damage]
    )
    file.chmod(0o600)
    assert knows_its_prices(PriceSource(tmp_path))
    assert kept(tmp_path).read_bytes() == good


def test_a_file_that_others_may_write_is_not_believed(folder: Path, tmp_path: Path) -> None:
    """Who may write the file may set the prices."""
    good = kept(folder).read_bytes()
    cheap = good[32:].replace(b"0.15", b"0.01")
    file = tmp_path / kept(folder).name
    file.write_bytes(sha256(cheap).digest() + cheap)
    file.chmod(0o666)
    assert knows_its_prices(PriceSource(tmp_path))
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_cannot_be_written_costs_time_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A read-only home is no reason not to start."""
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with caplog.at_level(logging.WARNING, "tollway.prices"):
        assert knows_its_prices(PriceSource(in_the_way / "cache"))
    assert "cannot keep the price data" in caplog.text


def test_where_no_process_can_be_started_the_data_are_read_in_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An interpreter that cannot start itself still knows its prices."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-such-python"))
    with caplog.at_level(logging.WARNING, "tollway.prices"):
        assert knows_its_prices(PriceSource(tmp_path))
    assert "so this one does" in caplog.text


ASK = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tollway.providers.prices import PriceSource
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
price = PriceSource(folder).find("openai", "gpt-4o-mini", datetime.now(UTC))
print(price.input.usd, "genai_prices" in sys.modules, "pydantic" in sys.modules)
"""


def test_reading_prices_never_imports_what_made_them(tmp_path: Path) -> None:
    """genai_prices and pydantic would cost every daemon 0.3 s and 25 MB."""
    assert run(ASK, str(tmp_path / "cache"), cwd=tmp_path) == "0.15 False False"


def test_a_package_of_that_name_in_the_working_folder_is_not_used(tmp_path: Path) -> None:
    """Where the daemon stands when it starts must not decide what models cost."""
    (tmp_path / "genai_prices").mkdir()
    (tmp_path / "genai_prices" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    assert run(ASK, str(tmp_path / "cache"), cwd=tmp_path) == "0.15 False False"


def test_processes_that_start_together_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Each writes the file whole; whoever is last leaves the same content."""
    command = [sys.executable, "-P", "-c", ASK, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [each.communicate()[0].strip() for each in started] == ["0.15 False False"] * 3
    assert kept(tmp_path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("given", ["", "relative"])
def test_the_cache_folder_is_where_the_desktop_rules_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """$XDG_CACHE_HOME/tollway; ~/.cache/tollway where that is missing or relative."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", given or str(tmp_path / "xdg"))
    PriceSource()
    expected = tmp_path / ("home/.cache" if given else "xdg") / "tollway"
    assert kept(expected).name.startswith("prices-")
