"""Each kind is asked for its models in its own way: the proof that address and key are right."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from one_answer import OneAnswer

from tollway.cli.discover import provider_keys
from tollway.cli.upstreams import Reached, reach_all
from tollway.daemon.config.load import parse

GEMINI = {"models": [{"name": "models/a"}, {"name": "models/b"}, {"name": "models/c"}]}
DATA = {"data": [{"id": "a"}, {"id": "b"}], "has_more": False}


@contextmanager
def answering(status: int, said: object, only: str = "") -> Iterator[OneAnswer]:
    """Yield a server with one answer."""
    server = OneAnswer(status, json.dumps(said).encode(), only)
    try:
        yield server
    finally:
        server.close()


def reached(server: OneAnswer, kind: str, path: str, more: str) -> Reached:
    """Return how a provider of a kind answers."""
    base = f'base_url = "http://127.0.0.1:{server.port}{path}"'
    text = f'[providers.x]\nkind = "{kind}"\n{base}\n{more}\n'
    (found,) = reach_all(parse(text, path=Path("gateway.toml")))
    return found


@pytest.mark.parametrize(
    ("kind", "path", "said", "count", "asked", "headers"),
    [
        ("anthropic", "/v1", DATA, 2, "/v1/models?limit=1000",
         {"x-api-key": "sk-own", "anthropic-version": "2023-06-01"}),
        ("gemini", "/v1beta", GEMINI, 3, "/v1beta/models?pageSize=1000",
         {"x-goog-api-key": "sk-own"}),
        ("azure", "/openai/v1", DATA, 2, "/openai/v1/models", {"api-key": "sk-own"}),
        ("sglang", "/v1", DATA, 2, "/v1/models", {"authorization": "Bearer sk-own"}),
        ("openai", "/v1", DATA, 2, "/v1/models", {"authorization": "Bearer sk-own"}),
    ],
)  # fmt: skip
def test_a_kind_s_models_are_counted(  # noqa: PLR0917 - a row has so many
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    path: str,
    said: object,
    count: int,
    asked: str,
    headers: dict[str, str],
) -> None:
    """With the header that it wants its key in, and all models on one page."""
    monkeypatch.setenv("OWN", "sk-own")
    with answering(200, said) as server:
        found = reached(server, kind, path, 'api_key = "env:OWN"')
        assert (found.state, found.models) == ("ok", count), found
        assert [one for one, _ in server.asked] == [asked]
        assert headers.items() <= server.headers[0].items()
        with_key = {name for name, value in server.headers[0].items() if "sk-own" in value}
        assert with_key == {name for name, value in headers.items() if "sk-own" in value}


@pytest.mark.parametrize(
    ("said", "names"),
    [
        (DATA, ("a", "b")),
        (GEMINI, ("a", "b", "c")),
        ({"data": [{"id": "org/m:free", "name": "M"}, {"id": 3}, 7, {}]}, ("org/m:free",)),
        ({"models": [{"name": "command-r"}]}, ("command-r",)),
        ({"modelSummaries": [{"modelId": "amazon.nova", "modelName": "Nova"}]}, ("amazon.nova",)),
        (
            {"publisherModels": [{"name": "publishers/google/models/gemini-2.5-flash"},
                                 {"name": "publishers/meta/models/llama-4"}]},
            ("gemini-2.5-flash", "meta/llama-4"),
        ),
    ],
)  # fmt: skip
def test_models_are_named_as_calls_have_them(said: object, names: tuple[str, ...]) -> None:
    """Behind `x/`: whoever adds a route to a server has to know what it calls its models."""
    with answering(200, said) as server:
        assert reached(server, "openai-compatible", "/v1", "").names == names


@pytest.mark.parametrize("status", [401, 403])
def test_a_provider_that_its_callers_pay_is_up_when_it_asks_who_is_there(status: int) -> None:
    """The gateway has no credential for it, and needs none."""
    with answering(status, {"error": {}}) as server:
        found = reached(server, "anthropic", "/v1", 'auth = "caller"')
        assert (found.state, found.fix) == ("ok", "")
        assert "its callers bring their own credential" in found.detail


def test_what_is_no_list_of_models_is_a_warning() -> None:
    """Somebody else's web application answers 200 as well."""
    with answering(200, {"hello": "there"}) as server:
        assert reached(server, "openai", "/v1", "").state == "warn"


@pytest.mark.parametrize(
    ("kind", "there", "written"),
    [
        ("openai-compatible", "/v1/models", ""),
        ("openai-compatible", "/v1/models", "/v1/v1"),
        ("vllm", "/api/v1/models", "/api"),
        ("deepseek", "/models", "/v1/v1"),
        ("gemini", "/v1beta/models", "/v1"),
    ],
)
def test_the_address_that_was_meant_is_told(kind: str, there: str, written: str) -> None:
    """A version left out or written twice is the usual fault: both are tried, on the same host."""
    with answering(200, DATA, only=there) as server:
        found = reached(server, kind, written, "")
        meant = f"http://127.0.0.1:{server.port}{there.removesuffix('/models')}"
        assert (found.state, found.status) == ("fail", 404)
        assert found.fix.endswith(f'gateway.toml:1: providers.x.base_url: write "{meant}"')


def test_no_address_is_told_where_none_has_models() -> None:
    """Some servers have no such list, and answer calls all the same."""
    with answering(404, {}) as server:
        found = reached(server, "openai-compatible", "/v1", "")
        assert (found.state, "is right and up" in found.fix) == ("warn", True)


def test_the_keys_of_anthropic_and_google_are_found_once() -> None:
    """Google's stands in either of two variables; the one of the API's own name goes first."""
    both = {"GEMINI_API_KEY": "x", "GOOGLE_API_KEY": "y", "ANTHROPIC_API_KEY": "z"}
    assert provider_keys(both) == {"ANTHROPIC_API_KEY": "anthropic", "GEMINI_API_KEY": "gemini"}
    assert provider_keys({"GOOGLE_API_KEY": "y"}) == {"GOOGLE_API_KEY": "gemini"}
