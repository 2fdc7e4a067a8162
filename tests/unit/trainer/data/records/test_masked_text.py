"""What a person can get wrong in the data of the masked objectives, as prepare tells it; no pod trains on any of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.contract.exits import ExitCode, UserError
from transformers import AutoModelForPreTraining, AutoTokenizer

from tests.ranks.fine_tuning import build_recipe, prepare_run
from tests.ranks.tiny_models import CONFIGS, save_model

GOOD = json.dumps({"text": "The cat sees. The dog finds. A bird likes the tree. " * 5})
OTHER = json.dumps({"sentences": ["The old house.", "A small tree."]})

BAD_LINES: dict[str, tuple[str, str]] = {
    "neither text nor sentences": (
        '{"body": "The cat."}',
        "expected one of the fields 'text' or 'sentences', found neither: name it in columns.text or columns.sentences",
    ),
    "both text and sentences": (
        '{"text": "The cat.", "sentences": ["The cat."]}',
        "expected one of the fields 'text' or 'sentences', found both: name it in columns.text or columns.sentences",
    ),
    "text that is none": ('{"text": 5}', "field 'text' is a number, not a string"),
    "half of a surrogate pair in text": (
        '{"text": "a \\ud800"}',
        "field 'text' has half of a surrogate pair at character 2",
    ),
    "sentences in one string": (
        '{"sentences": "The cat. The dog."}',
        "field 'sentences' is a string, not a list of sentences: text that is to be split belongs in columns.text",
    ),
    "sentences as an object": (
        '{"sentences": {"0": "The cat."}}',
        "field 'sentences' is an object, not a list of sentences: text that is to be split belongs in columns.text",
    ),
    "a sentence that is a list": (
        '{"sentences": ["The cat.", ["The", "dog"]]}',
        "field 'sentences' has a list at 1: every sentence is a string",
    ),
    "a sentence that is null": (
        '{"sentences": [null]}',
        "field 'sentences' has null at 0: every sentence is a string",
    ),
    "half of a surrogate pair in a sentence": (
        '{"sentences": ["The cat.", "\\ud800"]}',
        "field 'sentences' has half of a surrogate pair in sentence 1",
    ),
    "a list": ('["The cat."]', "expected a JSON object, found a list"),
    "no JSON": ('{"sentences": [}', "not JSON: Expecting value at column 16"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, "bert", AutoModelForPreTraining)
    return folder


def refuse(folder: Path, base: Path, lines: list[str], objective: str = "masked-lm-nsp", **parts: Any) -> UserError:
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    recipe = build_recipe(folder, objective, **({"model": {"uri": f"file://{base}"}} | parts))
    with pytest.raises(UserError) as caught:
        prepare_run(recipe)
    assert not (folder / "output" / "resolved.json").exists()
    return caught.value


@pytest.mark.parametrize(("line", "want"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_told_with_file_and_line(tmp_path: Path, model: Path, line: str, want: str) -> None:
    error = refuse(tmp_path, model, [GOOD, line, OTHER])
    assert str(error) == f"file://{tmp_path}/train.jsonl:2: {want}"
    assert error.code is ExitCode.DATA_ERROR


def test_masked_text_needs_text(tmp_path: Path, model: Path) -> None:
    error = refuse(tmp_path, model, [GOOD, OTHER], objective="masked-lm")
    assert str(error) == (
        f"file://{tmp_path}/train.jsonl:2: no field 'text', found sentences: name the field that holds it in "
        "columns.text"
    )


def test_one_document_has_no_other_to_be_paired_with(tmp_path: Path, model: Path) -> None:
    error = refuse(tmp_path, model, [GOOD, GOOD], data={"validation": {"fraction": 0}})
    assert str(error) == (
        "data.train has one document of two sentences or more: objective masked-lm-nsp pairs half of the texts with "
        "another document's. Give more documents: a text file is one, and so is a line of JSONL"
    )
    assert error.code is ExitCode.DATA_ERROR


def test_documents_of_one_sentence_leave_nothing_to_train_on(tmp_path: Path, model: Path) -> None:
    error = refuse(tmp_path, model, ['{"text": "The cat"}', '{"text": "The dog"}'])
    assert "data.train has 0 documents" in str(error)


# ---------------------------------------------------------------------------------------------- models and tokenizers


def save_tokenizer_without(folder: Path, model: Path, *names: str) -> dict[str, Any]:
    """The model's folder, its tokenizer robbed of some tokens."""
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(model)
    for name in names:
        setattr(tokenizer, name, None)
    tokenizer.save_pretrained(folder)
    return {"uri": f"file://{folder}"}


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path, model: Path) -> None:
    (tmp_path / "model").mkdir()
    robbed = save_tokenizer_without(tmp_path / "model", model, "mask_token")
    assert str(refuse(tmp_path, model, [GOOD], objective="masked-lm", model=robbed)) == (
        "model.uri: the tokenizer has no mask_token, which objective masked-lm needs: name one in tokenizer_config.json"
    )


def test_a_tokenizer_that_cannot_begin_a_pair_is_refused(tmp_path: Path, model: Path) -> None:
    (tmp_path / "model").mkdir()
    robbed = save_tokenizer_without(tmp_path / "model", model, "cls_token")
    assert str(refuse(tmp_path, model, [GOOD, OTHER], model=robbed)) == (
        "model.uri: the tokenizer has no cls_token, which objective masked-lm-nsp needs: name one in "
        "tokenizer_config.json"
    )


def test_whole_words_need_a_tokenizer_that_splits_text_into_words(tmp_path: Path, model: Path) -> None:
    (tmp_path / "model").mkdir()
    robbed = save_tokenizer_without(tmp_path / "model", model)
    path = tmp_path / "model" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": None}))
    error = refuse(tmp_path, model, [GOOD], objective="masked-lm", model=robbed, masking={"wholeWord": True})
    assert str(error) == (
        "masking.wholeWord: the tokenizer (model.uri) does not split text into words (tokenizer.json has no "
        "pre_tokenizer): leave masking.wholeWord out"
    )


ARCHITECTURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "a decoder": (
        "masked-lm",
        {"model_type": "llama"},
        "model.scratch.config.model_type: 'llama' cannot find masked tokens, which objective masked-lm trains",
    ),
    "no head for pairs": (
        "masked-lm-nsp",
        {"model_type": "roberta"},
        "model.scratch.config.model_type: 'roberta' cannot tell whether a text goes on, which objective masked-lm-nsp "
        "trains",
    ),
    "an encoder with a decoder": (
        "masked-lm",
        {"model_type": "bart"},
        "model.scratch.config.model_type bart: an encoder with a decoder is not trained by objective masked-lm: use an "
        "encoder (bert, roberta, modernbert, ...)",
    ),
    "positions that begin after the padding": (
        "masked-lm",
        {"model_type": "roberta", **CONFIGS["roberta"], "max_position_embeddings": 64},
        "training.sequenceLength is 64, but the model takes at most 62 tokens (model.scratch.config."
        "max_position_embeddings 64, of which 2 up to pad_token_id are unused): shorten training.sequenceLength",
    ),
}


@pytest.mark.parametrize(("objective", "config", "want"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_an_architecture_that_cannot_be_trained_so_is_refused(
    tmp_path: Path, model: Path, objective: str, config: dict[str, Any], want: str
) -> None:
    scratch = {"config": config, "tokenizer": {"train": {"vocabSize": 300}}}
    error = refuse(tmp_path, model, [GOOD, OTHER], objective, model={"uri": None, "scratch": scratch})
    assert str(error) == want
    assert error.code is ExitCode.SPEC_ERROR
