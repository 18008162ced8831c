"""Gemini CLI's home for a run: the person's own, but for how to sign in."""

import json
from pathlib import Path

import msgspec
import pytest

from tollway.cli.boundary import UsageProblem
from tollway.cli.run_env import Gateway
from tollway.cli.run_gemini import agent_settings

ANY = Gateway("http://127.0.0.1:4141", "tw-x")
SMART = Gateway("http://127.0.0.1:4141", "tw-x", "smart")
BY_KEY = {"security": {"auth": {"selectedType": "gemini-api-key"}}}


def home_of(tmp_path: Path, settings: str | None) -> Path:
    """Return a person's folder of Gemini CLI."""
    folder = tmp_path / ".gemini"
    folder.mkdir()
    if settings is not None:
        (folder / "settings.json").write_text(settings)
    return folder


def test_settings_that_sign_in_elsewhere_are_led_to_the_key(tmp_path: Path) -> None:
    """All else holds, the other files are there, and the person's own file is as it was."""
    said = {"theme": "x", "security": {"auth": {"selectedType": "oauth-personal"}, "a": 1}}
    folder = home_of(tmp_path, json.dumps(said))
    (folder / "GEMINI.md").write_text("remember")
    with agent_settings(("gemini",), {"GEMINI_CLI_HOME": str(tmp_path)}, ANY) as env:
        its = Path(env["GEMINI_CLI_HOME"]) / ".gemini"
        assert its != folder
        made = json.loads((its / "settings.json").read_text())
        assert made == {"theme": "x", "security": {"a": 1} | BY_KEY["security"]}
        assert (its / "GEMINI.md").read_text() == "remember"
    assert json.loads((folder / "settings.json").read_text()) == said
    assert not its.exists()


def test_what_a_run_leaves_in_its_home_is_kept(tmp_path: Path) -> None:
    """New folders, files within linked ones, and files that were put in a link's place."""
    folder = home_of(tmp_path, None)
    (folder / "history").mkdir()
    (folder / "state.json").write_text("old")
    with agent_settings(("gemini",), {"GEMINI_CLI_HOME": str(tmp_path)}, ANY) as env:
        its = Path(env["GEMINI_CLI_HOME"]) / ".gemini"
        (its / "history/one").write_text("1")
        (its / "tmp").mkdir()
        (its / "tmp/two").write_text("2")
        (its / "new").write_text("new state")
        (its / "new").replace(its / "state.json")
    assert (folder / "history/one").read_text() == "1"
    assert (folder / "tmp/two").read_text() == "2"
    assert (folder / "state.json").read_text() == "new state"
    assert not (folder / "settings.json").exists()


@pytest.mark.parametrize("settings", [json.dumps(BY_KEY), "// mine\n" + json.dumps(BY_KEY)])
def test_settings_that_name_the_key_are_used_as_they_are(tmp_path: Path, settings: str) -> None:
    """Also such as have comments, which are not ours to take out."""
    home_of(tmp_path, settings)
    with agent_settings(("gemini",), {"GEMINI_CLI_HOME": str(tmp_path)}, ANY) as env:
        assert env == {}


@pytest.mark.parametrize("settings", [None, json.dumps(BY_KEY)])
def test_the_run_s_model_stands_for_all_that_it_names_itself(
    tmp_path: Path, settings: str | None
) -> None:
    """It searches, sums up and sends agents out with models of Google's: each was a 404."""
    home_of(tmp_path, settings)
    with agent_settings(("gemini",), {"GEMINI_CLI_HOME": str(tmp_path)}, SMART) as env:
        made = json.loads((Path(env["GEMINI_CLI_HOME"]) / ".gemini/settings.json").read_text())
    overrides = made["modelConfigs"]["customOverrides"]
    assert {one["modelConfig"]["model"] for one in overrides} == {"smart"}
    led = {one["match"]["model"] for one in overrides}
    assert {"gemini-3-flash-preview", "gemini-2.5-pro", "flash", "flash-lite"} < led
    assert made["security"] == BY_KEY["security"]


def test_a_person_s_own_overrides_of_models_hold_beside_them(tmp_path: Path) -> None:
    """What they say of a temperature is theirs; which model is called is the run's."""
    own = {"match": {"model": "web-fetch"}, "modelConfig": {"generateContentConfig": {"topK": 3}}}
    said = {"modelConfigs": {"customAliases": {"a": {}}, "customOverrides": [own]}}
    home_of(tmp_path, json.dumps(said))
    with agent_settings(("gemini",), {"GEMINI_CLI_HOME": str(tmp_path)}, SMART) as env:
        made = json.loads((Path(env["GEMINI_CLI_HOME"]) / ".gemini/settings.json").read_text())
    assert made["modelConfigs"]["customAliases"] == {"a": {}}
    assert made["modelConfigs"]["customOverrides"][0] == own


def test_it_sums_up_when_half_of_the_model_s_window_is_full(tmp_path: Path) -> None:
    """It takes every model for one of a million tokens; a share of the person's own holds."""
    env = {"GEMINI_CLI_HOME": str(tmp_path)}
    folder = home_of(tmp_path, None)
    small = msgspec.structs.replace(SMART, window=131_072)
    for said, share in ({}, 0.0625), ({"model": {"compressionThreshold": 0.2}}, 0.2):
        (folder / "settings.json").write_text(json.dumps(said))
        with agent_settings(("gemini",), env, small) as made:
            path = Path(made["GEMINI_CLI_HOME"]) / ".gemini/settings.json"
            assert json.loads(path.read_text())["model"] == {"compressionThreshold": share}
    # Half of so little is what it says itself.
    (folder / "settings.json").write_text("{}")
    with agent_settings(("gemini",), env, msgspec.structs.replace(small, window=8192)) as made:
        path = Path(made["GEMINI_CLI_HOME"]) / ".gemini/settings.json"
        assert "model" not in json.loads(path.read_text())


def test_settings_with_comments_are_left_and_what_that_means_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its main model is led by a variable all the same."""
    home_of(tmp_path, "// mine\n" + json.dumps(BY_KEY))
    with agent_settings(("gemini",), {"GEMINI_CLI_HOME": str(tmp_path)}, SMART) as env:
        assert env == {}
    assert "has comments" in capsys.readouterr().err


def test_settings_that_cannot_be_read_are_refused_with_the_way_out(tmp_path: Path) -> None:
    """They may sign in to Google, past the gateway."""
    home_of(tmp_path, "{ // mine\n}")
    with (
        pytest.raises(UsageProblem, match="is no plain JSON"),
        agent_settings(("gemini",), {"GEMINI_CLI_HOME": str(tmp_path)}, ANY),
    ):
        pass


def test_other_programs_need_none(tmp_path: Path) -> None:
    """Nothing is made for them."""
    with agent_settings(("claude",), {"GEMINI_CLI_HOME": str(tmp_path)}, SMART) as env:
        assert env == {}
