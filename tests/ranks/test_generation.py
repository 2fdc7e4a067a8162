"""generation_config.json after training: all that it had, the ends of answers that were trained, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.recipe import Recipe

from tests.ranks.attempts import train_rank
from tests.ranks.chat_models import CHATML, build_chat_rows, save_chat_model
from tests.ranks.fine_tuning import build_recipe, prepare_run, write_rows
from tests.ranks.outputs import read_output
from tests.ranks.run_ranks import run_ranks
from tests.ranks.tiny_models import WORDS

# as Llama 2's, transformers would not save it; and some of it, it would not open
GIVEN = {
    "_from_model_config": True,
    "temperature": 0.6,
    "top_p": 0.9,
    "max_new_tokens": -1,
    "eos_token_id": [0, 1],
    "of_tomorrow": {"nested": [1, None]},
    "transformers_version": "4.30.0",
}
NAME = "generation_config.json"
LORA = {"type": "lora", "rank": 2}


def prepare_generative(
    folder: Path, objective: str, given: dict[str, Any] | None = GIVEN, output: str = "output", **parts: Any
) -> Recipe:
    """Prepare a run of one step; its model ends a document with token 0, and a chat's answers with token 2."""
    if not (folder / "model").exists():
        save_chat_model(folder / "model", parts.pop("model_type", "llama"), CHATML)
        (folder / "model" / NAME).unlink()
        if given is not None:
            (folder / "model" / NAME).write_text(json.dumps(given))
    answers = [{"role": "assistant", "content": word} for word in WORDS]
    rows: dict[str, Any] = {
        "sft": build_chat_rows(),
        "causal-lm": [{"text": f"the {word} of subrogation " * 40} for word in WORDS],
        "preference": [
            {"prompt": [{"role": "user", "content": "a"}], "chosen": [better], "rejected": [worse]}
            for better, worse in zip(answers[1:], answers, strict=False)
        ],
        "classification": [{"text": f"the {word}", "label": word} for word in ("good", "bad") * 10],
    }
    write_rows(folder / "train.jsonl", rows[objective])
    training = {"steps": 1, "batchSequences": 2, "sequenceLength": 128}
    recipe = build_recipe(folder, objective, output, training=training, evaluation={"before": False}, **parts)
    prepare_run(recipe)
    return recipe


@pytest.mark.parametrize(
    ("objective", "parts", "ends"),
    [
        ("causal-lm", {}, [0, 1]),
        ("causal-lm", {"model_type": "gpt2"}, [0, 1]),
        ("causal-lm", {"method": LORA}, [0, 1]),
        ("preference", {}, [0, 1]),
        ("preference", {"method": LORA}, [0, 1]),
        ("sft", {}, [0, 1, 2]),
        ("sft", {"method": LORA}, [0, 1, 2]),
        ("sft", {"method": LORA | {"type": "dora"}}, [0, 1, 2]),
    ],
)
def test_it_is_exported_as_it_came_with_the_ends_of_trained_answers(
    tmp_path: Path, objective: str, parts: dict[str, Any], ends: list[int]
) -> None:
    recipe = prepare_generative(tmp_path, objective, **parts)
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2
    assert read_output(recipe, f"model/{NAME}") == GIVEN | {"eos_token_id": ends}


def test_an_adapter_that_is_not_merged_has_it_beside_itself(tmp_path: Path) -> None:
    recipe = prepare_generative(tmp_path, "sft", method=LORA | {"merge": False})
    assert run_ranks(train_rank, 1, recipe) == ["finished"]
    assert read_output(recipe, f"adapter/{NAME}") == GIVEN | {"eos_token_id": [0, 1, 2]}


def test_a_run_that_goes_on_from_another_one_s_model_keeps_it(tmp_path: Path) -> None:
    first = prepare_generative(tmp_path, "sft")
    assert run_ranks(train_rank, 1, first) == ["finished"]
    uri = f"file://{tmp_path}/output/model"
    model = {"uri": uri, "extendVocabulary": {"tokens": 2}}
    following = prepare_generative(tmp_path, "causal-lm", output="following", model=model)
    assert run_ranks(train_rank, 1, following) == ["finished"]
    assert (
        read_output(following, "model/config.json")["vocab_size"]
        > read_output(first, "model/config.json")["vocab_size"]
    )
    assert read_output(following, f"model/{NAME}") == GIVEN | {"eos_token_id": [0, 1, 2]}


def test_without_one_the_ends_of_config_json_and_of_trained_answers_are_told(tmp_path: Path) -> None:
    recipe = prepare_generative(tmp_path, "sft", given=None)
    assert run_ranks(train_rank, 1, recipe) == ["finished"]
    assert read_output(recipe, f"model/{NAME}")["eos_token_id"] == [0, 2]


def test_a_damaged_one_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    recipe = prepare_generative(tmp_path, "sft")
    (tmp_path / "model" / NAME).write_text('{"eos_token_id": [0, ')
    with pytest.raises(UserError, match=r"model/generation_config\.json is damaged: .* Upload it again, or remove it"):
        prepare_run(recipe)


def test_a_model_that_writes_nothing_is_trained_and_left_without_it_even_where_it_is_damaged(tmp_path: Path) -> None:
    save_chat_model(tmp_path / "model")
    (tmp_path / "model" / NAME).write_text('{"eos_token_id": [0, ')
    recipe = prepare_generative(tmp_path, "classification")
    assert run_ranks(train_rank, 1, recipe) == ["finished"]
    assert not (tmp_path / "output" / "model" / NAME).exists()
