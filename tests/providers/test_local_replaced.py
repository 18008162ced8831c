"""A model's file that is replaced while it is loaded; with real processes."""

import shutil
from pathlib import Path

from gguf_files import llama_gguf, real_model, with_template
from local_models import NAME, body_of, chat, model, serving, state_of, text_of, whole

SHORT = "{{ messages[0].content }}"


async def test_a_file_that_was_replaced_is_loaded_by_the_next_call(tmp_path: Path) -> None:
    """Its answers would be those of a model that is not there any more; running calls end first."""
    path, other = tmp_path / "m.gguf", tmp_path / "other.gguf"
    shutil.copyfile(real_model(), path)
    with_template(real_model(), other, SHORT)
    async with serving(tmp_path, model(path)) as local:
        before = await whole(local, chat("hi"))
        pid = state_of(local).pid
        await local.sweep()
        assert state_of(local).pid == pid
        running = await local.send(NAME, "chat", chat("Count to a hundred.", max_tokens=12))
        other.replace(path)
        await local.sweep()
        assert state_of(local).state == "ready"  # it may be half a file still
        await local.sweep()
        assert state_of(local).state in {"ready", "draining"}
        assert b'"length"' in await body_of(running)
        after = await whole(local, chat("hi"))
        assert state_of(local).pid != pid
        assert after["usage"]["prompt_tokens"] < before["usage"]["prompt_tokens"]


async def test_a_file_that_is_no_model_is_told_and_the_old_one_serves_on(tmp_path: Path) -> None:
    """A download that has broken off in its place takes nothing away; nor does its removal."""
    path = tmp_path / "m.gguf"
    shutil.copyfile(real_model(), path)
    async with serving(tmp_path, model(path)) as local:
        await text_of(local, chat("hi"))
        pid = state_of(local).pid
        half = tmp_path / "half.gguf"
        half.write_bytes(llama_gguf()[:200])
        half.replace(path)
        for _ in range(2):
            await local.sweep()
        assert "was replaced" in state_of(local).warning
        assert state_of(local).fix
        path.unlink()
        for _ in range(2):
            await local.sweep()
        assert "no file `m.gguf`" in state_of(local).warning
        await text_of(local, chat("hi"))
        assert state_of(local).pid == pid


async def test_who_loads_a_model_that_was_replaced_gets_the_new_file(tmp_path: Path) -> None:
    """A person who has just put it there does not wait for a look at it."""
    path, other = tmp_path / "m.gguf", tmp_path / "other.gguf"
    shutil.copyfile(real_model(), path)
    shutil.copyfile(real_model(), other)
    async with serving(tmp_path, model(path)) as local:
        await local.load(NAME)
        pid = state_of(local).pid
        await local.load(NAME)
        assert state_of(local).pid == pid
        other.replace(path)
        await local.load(NAME)
        assert state_of(local).pid not in {pid, None}
