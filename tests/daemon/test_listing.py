"""`GET /v1/models`, as each client's library reads it."""

import asyncio
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from gateway import KEY, body, gateway
from gguf_shapes import shaped
from local_gateway import models, serving
from upstreams import says

from tollway.daemon.listing import entries

LATE = "tw-" + "l" * 40
SHORT = 512  # tokens that the model was trained on; 8,192 are asked for


@pytest.mark.parametrize(
    ("path", "headers", "place", "name", "window"),
    [
        ("/v1/models", {}, "data", "id", "context_window"),
        ("/v1/models", {"anthropic_version": "2023-06-01"}, "data", "id", "max_input_tokens"),
        ("/v1beta/models", {}, "models", "name", "inputTokenLimit"),
        ("/v1/models", {"x_goog_api_key": KEY}, "models", "name", "inputTokenLimit"),
    ],
    ids=["openai", "anthropic", "gemini", "gemini at v1"],
)
async def test_each_library_finds_names_and_true_windows(
    tmp_path: Path, path: str, headers: dict[str, str], place: str, name: str, window: str
) -> None:
    """A window is what fits, not what was asked for; Google's library asks at /v1 too."""
    made = shaped(tmp_path / "short.gguf", context=SHORT)
    sent: Any = {"authorization": f"Bearer {KEY}", **headers}
    async with serving(models(short=(made, 8192))) as daemon:
        (entry,) = (await daemon.ask("GET", path, **sent)).json()[place]
        assert entry[name] in {"local/short", "models/local/short"}
        assert entry[window] == SHORT
        alone = await daemon.ask("GET", f"{path}/local/short", **sent)
        assert alone.json() == entry


WINDOWS = """
[routes.both]
to = ["up/short", "up/long"]
[routes.unsure]
to = ["up/short", "up/unknown"]
[prices."up/short"]
input = 1
output = 2
context_window = 32_000
[prices."up/long"]
input = 1
output = 2
context_window = 200_000
"""


async def test_a_route_takes_what_its_widest_target_takes() -> None:
    """A prompt that is too long for the first goes on to that one; nobody knows of the unknown."""
    async with gateway([[says(b"")]], more=WINDOWS) as gate:
        sent: Any = {"authorization": f"Bearer {KEY}"}
        listed = (await gate.daemon.ask("GET", "/v1/models", **sent)).json()["data"]
        windows = {entry["id"]: entry.get("context_window") for entry in listed}
        assert (windows["both"], windows["unsure"]) == (200_000, None)
        assert (windows["up/short"], windows["up/unknown"]) == (32_000, None)


async def test_a_model_of_this_box_was_made_when_its_file_was(tmp_path: Path) -> None:
    """The same at each call and after each restart: some clients keep it, or sort by it."""
    made = shaped(tmp_path / "short.gguf", context=SHORT)
    os.utime(made, (1_700_000_000, 1_700_000_000))
    async with serving(models(short=(made, 8192))) as daemon:
        key = f"Bearer {KEY}"
        (entry,) = (await daemon.ask("GET", "/v1/models", authorization=key)).json()["data"]
        assert entry["created"] == 1_700_000_000
        said: Any = {"authorization": key, "anthropic_version": "2023-06-01"}
        (entry,) = (await daemon.ask("GET", "/v1/models", **said)).json()["data"]
        assert entry["created_at"] == "2023-11-14T22:13:20Z"


async def test_google_s_library_finds_which_models_make_vectors() -> None:
    """Clients look for the method that they call; a route is what its first target is."""
    more = '[routes.vectors]\nto = ["up/text-embedding-3-small"]\n[routes.chat]\nto = ["up/m"]\n'
    async with gateway([[says(b"")]], more=more) as gate:
        sent: Any = {"authorization": f"Bearer {KEY}"}
        listed = (await gate.daemon.ask("GET", "/v1beta/models", **sent)).json()["models"]
        methods = {entry["name"]: entry["supportedGenerationMethods"] for entry in listed}
        assert methods["models/vectors"] == ["embedContent"]
        assert methods["models/chat"] == ["generateContent", "countTokens"]


MANY = 1_000


async def test_a_long_list_and_a_wrong_name_keep_nobody_waiting() -> None:
    """With a thousand routes a list took 60 ms of everybody's time, and each wrong name 20."""
    routes = "".join(f'[routes.r{number}]\nto = ["up/m"]\n' for number in range(MANY))
    late = f"""
[groups.last]
models = ["r{MANY - 1}"]
[users.bob]
groups = ["last"]
[keys.late]
hash = "sha256:{sha256(LATE.encode()).hexdigest()}"
user = "bob"
"""
    async with gateway([[says(b"")]], more=routes + late) as gate:
        inside = gate.daemon.server.daemon.gate
        listing = asyncio.create_task(
            entries(inside, inside.keyring.callers["late"], lambda _, name: {"id": name})
        )
        turns = 0
        while not listing.done():
            await asyncio.sleep(0)
            turns += 1
        assert listing.result() == [{"id": f"r{MANY - 1}"}]
        assert turns >= MANY // 100
        for key, words in (
            (
                KEY,
                "It may call `r0`, `r1`, `r2`, `r3`, `r4`, and more: `GET /v1/models` lists them",
            ),
            (LATE, "`GET /v1/models` lists what it may call"),
        ):
            refused = await gate.ask(body(model="nobodys"), authorization=f"Bearer {key}")
            assert (refused.status, words in refused.json()["error"]["message"]) == (404, True)
