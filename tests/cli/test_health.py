"""What `status` and `providers list` say of providers that fail and keys that rest."""

import msgspec
import pytest

from tollway.cli import health
from tollway.cli.health import Provider
from tollway.daemon.gate.breaker import Rules
from tollway.daemon.gate.health import Health
from tollway.daemon.gate.route import ProviderKey, Target
from tollway.providers.catalog import KINDS
from tollway.providers.errors import UpstreamRefused

POOL = tuple(ProviderKey(f"env:K{number}", ()) for number in (1, 2, 3))


def seen(status: int, times: int, pool: tuple[ProviderKey, ...] = POOL) -> Provider:
    """Return a provider after so many refusals, as the command reads it."""
    known = Health(lambda: 1000.0)
    known._pools = {"openai": tuple(key.name for key in pool)}
    known._rules = {"openai": Rules()}
    target = Target("openai", "gpt-4o", KINDS["openai"], keys=pool)
    for _ in range(times):
        chosen = known.with_key(target)
        known.begin(chosen).failed(UpstreamRefused("No", status=status), 42.0)
    (found,) = msgspec.convert(msgspec.to_builtins(known.states()), list[Provider])
    return found


def test_a_failing_target_is_a_line_with_its_reason_and_its_trial(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Which, why, and when it is tried again."""
    found = seen(503, 5)
    health.table([found])
    (_, line) = filter(None, capsys.readouterr().out.splitlines())
    assert line.split() == ["openai/gpt-4o", "failing", "HTTP", "503", "in", "10s"]
    assert health.word(found).text == "openai/gpt-4o failing"


def test_a_resting_key_is_named_by_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    """Its number in `api_keys`, where it is kept, and for which model it rests."""
    found = seen(429, 1)
    health.table([found])
    told = " ".join(capsys.readouterr().out.split())
    assert "openai key 1 (env:K1) for gpt-4o rests rate limited in 42s" in told
    assert health.word(found).text == "1 of 3 keys rest"


def test_a_provider_that_needs_no_key_rests_by_its_own_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Calls go around it for minutes, whether it has keys or not."""
    found = seen(401, 1, ())
    health.table([found])
    told = " ".join(capsys.readouterr().out.split())
    assert "openai rests refused (HTTP 401) in 10m" in told
    assert health.word(found).text == "rests"


def test_nothing_is_shown_while_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    """A table of what serves would be read by nobody."""
    health.table([Provider("openai")])
    assert not capsys.readouterr().out
    assert health.word(Provider("openai")).text == "serves"
