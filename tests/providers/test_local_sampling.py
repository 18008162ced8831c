"""llama-server's samplers, with the real small model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import real_model
from hypothesis import given
from hypothesis import strategies as st
from local_models import NAME, body_of, chat, model, serving, text_of, whole

from tollway.providers.errors import AnswerHeldUp
from tollway.providers.llamacpp.samplers import likeliest

pytestmark = [pytest.mark.local, pytest.mark.timeout(300)]

SAID = "Say this again and again: one two one two one two one two."
ASKED: list[dict[str, Any]] = [
    {"dry_multiplier": 2, "dry_penalty_last_n": -1, "dry_allowed_length": 1},
    {"dry_multiplier": 2, "temperature": 0, "dry_sequence_breakers": []},
    {"xtc_probability": 1, "xtc_threshold": 0.01},
    {"dynatemp_range": 1, "dynatemp_exponent": 2},
    {"top_n_sigma": 0.5},
    {"mirostat": 1, "mirostat_tau": 2},
    {"mirostat": 2, "mirostat_tau": 2, "mirostat_eta": 0.5},
    {"repetition_penalty": 1.5, "repeat_last_n": -1},
]


async def test_each_sampler_changes_the_answer_and_keeps_to_the_seed(tmp_path: Path) -> None:
    """None is taken without a word and then does nothing; the same seed gives the same answer."""
    usual: dict[float, str] = {}
    async with serving(tmp_path) as local:
        for asked in ASKED:
            heat = asked.get("temperature", 1)
            plain = {"temperature": heat, "seed": 11, "top_k": 0}
            if heat not in usual:
                usual[heat] = await text_of(local, chat(SAID, **plain))
            first, second = [await text_of(local, chat(SAID, **plain, **_but(asked))) for _ in "ab"]
            assert first == second, asked
            assert first != usual[heat], asked


@given(st.lists(st.floats(width=32), min_size=1, max_size=30), st.integers(1, 40))
def test_the_likeliest_tokens_are_all_that_top_k_could_leave(
    numbers: list[float], count: int
) -> None:
    """In their order, with all that are as likely as the last one; llama.cpp's chain sees these."""
    found = likeliest(np.array(numbers, np.float32), count)
    assert list(found) == sorted(set(found))
    assert len(found) >= min(count, len(numbers))
    least = min(numbers[at] for at in found)
    assert all(at in found for at, number in enumerate(numbers) if number >= least)


async def test_samplers_judge_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    """What is left out does nothing, and what is hot before a cut lets more through it."""
    hot = {"temperature": 2, "min_p": 0.3, "top_k": 0, "top_p": 1, "seed": 11}
    async with serving(tmp_path) as local:
        usual = await text_of(local, chat(SAID, **hot))
        found = []
        for order in (["min_p", "temperature"], ["temperature", "min_p"], ["temperature"]):
            first, second = [await text_of(local, chat(SAID, **hot, samplers=order)) for _ in "ab"]
            assert first == second, order
            found.append(first)
        assert found[0] == usual
        assert len(set(found)) == 3


async def test_a_grammar_that_would_end_the_worker_ends_its_call_alone(tmp_path: Path) -> None:
    """Or take hours, and all later calls with it: a 400, and the next call is served."""
    deep = "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000
    long = "root ::= " + "[a-z]? " * 3000
    late = "root ::= " + "[a-z] " * 60 + "[a-z]? " * 3000
    async with serving(tmp_path) as local:
        for grammar in (deep, long, late):
            answer = await local.send(NAME, "chat", chat("hi", grammar=grammar))
            told = json.loads(await body_of(answer))["error"]
            assert (answer.status, told["param"]) == (400, "grammar")
            assert "too much for llama.cpp" in told["message"]
        for _ in "ab":
            assert await text_of(local, chat("hi", grammar='root ::= "yes" | "no"')) in {
                "yes",
                "no",
            }


async def test_a_grammar_that_comes_to_its_end_in_a_token_is_its_caller_s_fault(
    tmp_path: Path,
) -> None:
    """Before the answer or in its middle: the model is well, and nobody else should be told."""
    nothing = "[^\\x00-\\U0010FFFF]"
    async with serving(tmp_path) as local:
        with pytest.raises(AnswerHeldUp, match="allows no token") as first:
            await local.send(NAME, "chat", chat("hi", grammar=f"root ::= {nothing}"))
        answer = await local.send(
            NAME, "chat", chat("hi", grammar=f'root ::= "a" {nothing}', stream=True)
        )
        with pytest.raises(AnswerHeldUp, match="allows no token") as later:
            await body_of(answer)
        assert answer.usage_so_far.output == 1
        assert [fault.value.param for fault in (first, later)] == ["grammar", "grammar"]


def _but(asked: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if name != "temperature"}


async def test_an_answer_that_may_not_end_goes_on_to_its_limit(tmp_path: Path) -> None:
    """The model would stop; what holds an answer to a form needs that end, and is a 400."""
    async with serving(tmp_path, model(real_model())) as local:
        usual = await whole(local, chat("Say hello.", max_tokens=60))
        assert usual["choices"][0]["finish_reason"] == "stop"
        endless = await whole(local, chat("Say hello.", max_tokens=60, ignore_eos=True))
        assert endless["choices"][0]["finish_reason"] == "length"
        assert endless["usage"]["completion_tokens"] == 60
        held = chat("hi", ignore_eos=True, response_format={"type": "json_object"})
        answer = await local.send(NAME, "chat", held)
        assert (answer.status, json.loads(await body_of(answer))["error"]["param"]) == (
            400,
            "ignore_eos",
        )
