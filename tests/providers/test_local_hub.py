"""Fetching from Hugging Face: what is chosen, what is checked, what goes on after a break."""

import fcntl
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, serving_hub
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.llamacpp import hub
from tollway.providers.llamacpp.hub import Choice, HubFile, HubProblem, grouped, parse, pick

REPO = "org/Tiny-GGUF"
SMALL, LARGE = bytes(range(256)) * 40, bytes(range(255, -1, -1)) * 3000
FILES = {
    "README.md": b"# Tiny",
    "Tiny-Q8_0.gguf": SMALL,
    "Tiny-Q4_K_M.gguf": LARGE,
    "mmproj-Tiny-F16.gguf": b"GGUF projector",
    "BF16/Tiny-BF16-00001-of-00002.gguf": SMALL + b"1",
    "BF16/Tiny-BF16-00002-of-00002.gguf": SMALL + b"2",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Serve a repository on loopback, in place of Hugging Face."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub comes with the `pull` extra")
    with serving_hub({REPO: FILES, "org/Closed": {"Closed-Q4_K_M.gguf": SMALL}}) as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("time.sleep", lambda _: None)  # the library's, between its tries
        yield made


def quiet(_done: int, _of: int) -> None:
    """Take progress and show nothing."""


def usual(repo: str = REPO) -> Choice:
    """Return what is taken where nothing is said."""
    choice = pick(hub.choices(repo), "")
    assert choice
    return choice


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("org/repo", ("org/repo", "")),
        ("org/repo:Q4_K_M", ("org/repo", "Q4_K_M")),
        ("hf.co/org/repo:Q8_0", ("org/repo", "Q8_0")),
        ("https://huggingface.co/org/repo.v2/", ("org/repo.v2", "")),
    ],
)
def test_a_repository_is_named_as_elsewhere(said: str, meant: tuple[str, str]) -> None:
    """As on its page, as in other tools."""
    assert parse(said) == meant


@pytest.mark.parametrize("said", ["repo", "a/b/c", "../etc", "a/..", "", "org/repo:", "a b/c"])
def test_what_names_no_repository_is_refused(said: str) -> None:
    """Nothing but a name goes into a URL or a path."""
    with pytest.raises(HubProblem, match="names no repository"):
        parse(said)


@given(st.text(max_size=40))
def test_a_name_that_is_taken_stays_inside_its_folder(said: str) -> None:
    """Whatever is said, the folder of a repository is two below the one for models."""
    try:
        repo, _ = parse(said)
    except HubProblem:
        return
    assert len(Path("/m", repo).resolve().relative_to("/m").parts) == 2


@pytest.mark.parametrize(
    ("name", "quantisation"),
    [
        ("Qwen3-8B-Q4_K_M", "Q4_K_M"),
        ("model.q5_0", "Q5_0"),
        ("Llama-3-UD-IQ2_XXS", "UD-IQ2_XXS"),
        ("Q6_K/model-Q6_K", "Q6_K"),
        ("gpt-oss-20b-mxfp4", "MXFP4"),
        ("model-BF16", "BF16"),
        ("Qwen3-8B", ""),
    ],
)
def test_the_quantisation_is_read_from_the_name(name: str, quantisation: str) -> None:
    """As people name files; the models' own names have digits and letters too."""
    assert hub.quantisation(name) == quantisation


def test_a_split_model_is_one_choice_and_a_projector_none() -> None:
    """And one that lacks a part cannot be chosen."""
    files = [HubFile(path, 1) for path in FILES] + [HubFile("x-Q2_K-00001-of-00002.gguf", 1)]
    found = grouped(files)
    assert [(one.quantisation, len(one.files)) for one in found] == [
        ("Q4_K_M", 1),
        ("Q8_0", 1),
        ("BF16", 2),
    ]
    assert [file.path[-19:] for file in found[-1].files] == [
        "-00001-of-00002.gguf"[1:],
        "-00002-of-00002.gguf"[1:],
    ]


def test_the_usual_quantisation_is_taken_unless_another_is_said() -> None:
    """Where it is not clear, nothing is taken."""
    found = grouped([HubFile(path, 1) for path in FILES])
    for said, meant in (("", "Q4_K_M"), ("q8_0", "Q8_0"), ("tiny-q8_0", "Q8_0")):
        choice = pick(found, said)
        assert choice
        assert choice.quantisation == meant
    assert pick(found, "Q2_K") is None
    assert pick(found[1:], "") is None
    assert pick(found[1:2], "") == found[1]


def test_a_model_is_fetched_and_its_checksum_compared(server: Hub, tmp_path: Path) -> None:
    """Progress counts the bytes of the whole; a second time nothing is sent."""
    seen: list[tuple[int, int]] = []
    (path,) = hub.fetch(REPO, usual(), tmp_path / "m", lambda done, of: seen.append((done, of)))
    assert path == tmp_path / "m" / "Tiny-Q4_K_M.gguf"
    assert path.read_bytes() == LARGE
    assert seen[-1] == (len(LARGE), len(LARGE))
    assert server.ranges == [None]
    hub.fetch(REPO, usual(), tmp_path / "m", quiet)
    assert server.ranges == [None]
    assert [one.name for one in (tmp_path / "m").iterdir()] == [path.name]


def test_a_split_model_comes_whole(server: Hub, tmp_path: Path) -> None:
    """All parts, in one folder, the first one first."""
    choice = pick(hub.choices(REPO), "BF16")
    assert choice
    first, second = hub.fetch(REPO, choice, tmp_path, quiet)
    assert (first.read_bytes(), second.read_bytes()) == (SMALL + b"1", SMALL + b"2")
    assert first.name == "Tiny-BF16-00001-of-00002.gguf"


def test_a_cut_connection_is_taken_up_again_at_once(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is asked for, not the whole; the library writes in pieces of 10 MB."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 2**16)
    server.cut_at, server.cuts = 300_000, 1
    (path,) = hub.fetch(REPO, usual(), tmp_path, quiet)
    assert path.read_bytes() == LARGE
    assert server.ranges == [None, f"bytes={4 * 2**16}-"]


def test_what_broke_off_goes_on_in_the_next_run(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that stays away ends the command; what came is kept and not asked for again."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 2**16)
    server.cut_at, server.cuts = 500_000, 1
    server.cut_at_last = 0
    with pytest.raises(HubProblem, match="could not be fetched") as fault:
        hub.fetch(REPO, usual(), tmp_path, quiet)
    assert "goes on where it stopped" in fault.value.hint
    assert not (tmp_path / "Tiny-Q4_K_M.gguf").exists()
    held = (tmp_path / "Tiny-Q4_K_M.gguf.part").stat().st_size
    assert held == 7 * 2**16
    server.cut_at = server.cut_at_last = None
    server.ranges.clear()
    seen: list[int] = []
    (path,) = hub.fetch(REPO, usual(), tmp_path, lambda done, _: seen.append(done))
    assert server.ranges == [f"bytes={held}-"]
    assert path.read_bytes() == LARGE
    assert seen[0] > held
    assert not (tmp_path / "Tiny-Q4_K_M.gguf.part").exists()


def test_a_part_of_another_file_is_found_out(server: Hub, tmp_path: Path) -> None:
    """Its name is the same after the owner has replaced the file; the checksum is not."""
    (tmp_path / "Tiny-Q4_K_M.gguf.part").write_bytes(bytes(1000))
    with pytest.raises(HubProblem, match="another checksum"):
        hub.fetch(REPO, usual(), tmp_path, quiet)
    assert list(tmp_path.glob("Tiny*")) == []
    (path,) = hub.fetch(REPO, usual(), tmp_path, quiet)
    assert path.read_bytes() == LARGE


def test_two_that_fetch_one_file_do_not_damage_it(server: Hub, tmp_path: Path) -> None:
    """The second is told so at once, and what the first has is still there."""
    partial = tmp_path / "Tiny-Q4_K_M.gguf.part"
    with partial.open("wb") as first:
        first.write(LARGE[:1000])
        first.flush()
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(HubProblem, match="is being fetched by another command"):
            hub.fetch(REPO, usual(), tmp_path, quiet)
        assert partial.read_bytes() == LARGE[:1000]
        assert server.ranges == []
    (path,) = hub.fetch(REPO, usual(), tmp_path, quiet)
    assert path.read_bytes() == LARGE
    assert server.ranges == ["bytes=1000-"]


def test_damaged_bytes_never_get_the_files_name(server: Hub, tmp_path: Path) -> None:
    """A proxy or a disk may change them; nothing of them stays."""
    server.lie = True
    with pytest.raises(HubProblem, match="another checksum"):
        hub.fetch(REPO, usual(), tmp_path, quiet)
    assert list(tmp_path.glob("Tiny*")) == []


def test_a_damaged_file_is_fetched_again(server: Hub, tmp_path: Path) -> None:
    """Of the right size and with other bytes."""
    (tmp_path / "Tiny-Q4_K_M.gguf").write_bytes(bytes(len(LARGE)))
    (path,) = hub.fetch(REPO, usual(), tmp_path, quiet)
    assert path.read_bytes() == LARGE


def test_a_gated_model_says_what_to_do_and_opens_with_a_token(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accept the terms, make a token, set HF_TOKEN; a token without access says the same."""
    server.gated = "org/Closed"
    for token in (None, "hf_other"):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(HubProblem, match="`org/Closed` is gated") as fault:
            hub.fetch("org/Closed", usual("org/Closed"), tmp_path, quiet)
        assert f"{server.url}/org/Closed" in fault.value.hint
        assert "HF_TOKEN" in fault.value.hint
        assert "hf_other" not in fault.value.message + fault.value.hint
    monkeypatch.setenv("HF_TOKEN", server.token)
    (path,) = hub.fetch("org/Closed", usual("org/Closed"), tmp_path, quiet)
    assert path.read_bytes() == SMALL


def test_a_token_stays_at_the_hub(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files come from another host's storage, which has its own signed addresses."""
    monkeypatch.setenv("HF_TOKEN", server.token)
    with serving_hub({REPO: FILES}) as storage:
        server.storage = storage.url
        (path,) = hub.fetch(REPO, usual(), tmp_path, quiet)
        assert path.read_bytes() == LARGE
        assert storage.ranges == [None]
        assert {token for _, token in storage.tokens} == {None}
    assert f"Bearer {server.token}" in {token for _, token in server.tokens}


def test_a_repository_that_is_not_there_is_said(server: Hub) -> None:
    """Missing and private look alike from outside, and both are named."""
    with pytest.raises(HubProblem, match="no repository `org/Nothing`") as fault:
        hub.choices("org/Nothing")
    assert "HF_TOKEN" in fault.value.hint


def test_a_hub_that_does_not_answer_is_said(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, with no traceback of the library's."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubProblem, match=f"`{REPO}` could not be fetched"):
        hub.choices(REPO)


def test_a_full_disk_is_found_before_anything_is_sent(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come already does not count again."""
    choice = usual()
    monkeypatch.setattr(hub, "_SPARE_BYTES", 2**62)
    with pytest.raises(HubProblem, match=r"MiB are to come, with \d+ MiB to be left"):
        hub.fetch(REPO, choice, tmp_path, quiet)
    assert server.ranges == []


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core goes without it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HubProblem, match="huggingface_hub") as fault:
        hub.choices(REPO)
    assert "tollway[pull]" in fault.value.hint
