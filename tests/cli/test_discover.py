"""What `init` and `doctor` find on a box, and what they leave alone."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gguf_files import llama_gguf
from one_answer import OneAnswer

from tollway.cli import discover

Serve = Callable[[int, bytes], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a server with one answer and returns its port."""
    servers: list[OneAnswer] = []

    def start(status: int, body: bytes) -> int:
        servers.append(OneAnswer(status, body))
        return servers[-1].port

    yield start
    for server in servers:
        server.close()


def test_keys_are_found_by_name_and_never_read() -> None:
    """Only the variables' names are reported; an empty one is no key."""
    found = discover.provider_keys({"GROQ_API_KEY": "secret", "OPENAI_API_KEY": " ", "HOME": "/"})
    assert found == {"GROQ_API_KEY": "groq"}


def test_model_servers_are_found_by_what_they_answer(serve: Serve) -> None:
    """The port suggests a kind; what the server says of itself wins; anything else is no server."""
    models = [{"id": "qwen3:8b", "object": "model", "owned_by": "library"}]
    plain = serve(200, json.dumps({"object": "list", "data": models}).encode())
    told = serve(200, json.dumps({"data": [{"id": "m", "owned_by": "llamacpp"}]}).encode())
    page = serve(200, b"<html>somebody's web application</html>")
    locked = serve(401, b"{}")
    ports = {plain: "ollama", told: "vllm", page: "llama-server", locked: "lmstudio"}
    assert discover.local_servers(ports, timeout_s=5) == [
        discover.LocalServer("ollama", f"http://127.0.0.1:{plain}/v1", ("qwen3:8b",)),
        discover.LocalServer("llama-server", f"http://127.0.0.1:{told}/v1", ("m",)),
    ]


def test_a_port_where_nobody_listens_is_no_server(serve: Serve) -> None:
    """Most boxes run none of them."""
    assert discover.local_servers({1: "vllm"}) == []
    assert discover.local_servers({}) == []


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
        ("Qwen3-8B-Q4_K_M.gguf", "qwen3-8b"),
        ("Llama-3.1-70B-IQ2_XS-00001-of-00003.gguf", "llama-3-1-70b"),
        ("Llama-3.1-70B-IQ2_XS-00002-of-00003.gguf", ""),
        ("mmproj-model-f16.gguf", ""),
        ("gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b"),
        ("readme.md", ""),
    ],
)
def test_a_model_is_named_after_its_file(file: str, name: str) -> None:
    """Without the quantisation, in letters that need no quotes in TOML."""
    assert discover.model_name(file) == name


def test_model_files_are_told_by_their_first_bytes(tmp_path: Path) -> None:
    """A download that failed leaves a page of HTML with the right name."""
    folder = tmp_path / "models" / "maker"
    folder.mkdir(parents=True)
    (folder / "Good-Q8_0.gguf").write_bytes(llama_gguf())
    (folder / "bad.gguf").write_bytes(b"<html>404</html>")
    (folder / "loop").symlink_to(tmp_path / "models")
    found = discover.model_files([tmp_path / "models", tmp_path / "nowhere"])
    size = len(llama_gguf())
    assert found == [discover.ModelFile("good", folder / "Good-Q8_0.gguf", size)]


def test_of_two_files_of_a_name_the_whole_one_counts(tmp_path: Path) -> None:
    """A download was begun again elsewhere, or in another quantisation."""
    (tmp_path / "Good-Q4_0.gguf").write_bytes(llama_gguf()[:-4])
    (found,) = discover.model_files([tmp_path])
    assert "`Good-Q4_0.gguf` is cut short: 4 of " in found.problem
    for name in ("Good-Q6_K.gguf", "Good-Q8_0.gguf"):
        (tmp_path / name).write_bytes(llama_gguf())
    (found,) = discover.model_files([tmp_path])
    assert (found.path.name, found.problem) == ("Good-Q6_K.gguf", "")


def test_the_search_for_model_files_is_bounded(tmp_path: Path) -> None:
    """A folder with a hundred models is not a question with a hundred answers."""
    for number in range(40):
        (tmp_path / f"m{number:02}.gguf").write_bytes(b"GGUF")
    assert len(discover.model_files([tmp_path])) == 20


def test_the_gpu_is_what_the_driver_reports(tmp_path: Path) -> None:
    """No driver, no GPU; a driver that fails reports none either."""
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'NVIDIA L4, 23034'\n")
    driver.chmod(0o755)
    assert discover.gpus([str(driver)]) == [discover.Gpu("NVIDIA L4", 23034)]
    driver.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because'; exit 9\n")
    assert discover.gpus([str(driver)]) == []
    assert discover.gpus([str(tmp_path / "none")]) == []
