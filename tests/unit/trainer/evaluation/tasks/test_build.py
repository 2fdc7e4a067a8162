"""Tasks: what is wrong with their files, how questions are put, and what answers amount to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer, train_tokenizer
from runyard_trainer.evaluation.tasks.build import build_tasks, draw_shots
from runyard_trainer.evaluation.tasks.items import FrozenTask, FrozenTasks, Item
from runyard_trainer.evaluation.tasks.kinds import Question, format_entities
from runyard_trainer.evaluation.tasks.scores import find_entities, find_label, score_texts

CHOICE = {"prompt": "the cat", "choices": ["a", "b"], "answer": 0}
WORDS = {"tokens": ["Acme", "fell"], "tags": ["B-ORG", "O"]}
HEADLINE = {
    "News": "gold up",
    **dict.fromkeys(["Price or Not", "Direction Up", "PastPrice"], 1),
    **dict.fromkeys(["Direction Constant", "Direction Down", "FuturePrice", "PastNews", "FutureNews"], 0),
    "Asset Comparision": 0,
}

BAD: dict[str, tuple[str, Any, str]] = {
    "no JSON": ("multiple-choice", b"{", "not JSON"),
    "a list": ("multiple-choice", [1], "expected a JSON object, found a list"),
    "no prompt": ("multiple-choice", {"choices": ["a", "b"], "answer": 0}, "no field 'prompt', found answer, choices"),
    "an empty prompt": ("multiple-choice", CHOICE | {"prompt": " "}, "field 'prompt' is empty"),
    "one choice": ("multiple-choice", CHOICE | {"choices": ["a"]}, "needs two texts at least"),
    "choices in a text": ("multiple-choice", CHOICE | {"choices": "ab"}, "field 'choices' is a string"),
    "an answer in words": ("multiple-choice", CHOICE | {"answer": "a"}, "'answer' is a string, not the number of"),
    "an answer that is true": ("multiple-choice", CHOICE | {"answer": True}, "'answer' is true or false"),
    "an answer past the end": ("multiple-choice", CHOICE | {"answer": 2}, "'answer' is 2, and choices are numbered"),
    "half of a surrogate pair": ("multiple-choice", CHOICE | {"prompt": "\ud83d"}, "half of a surrogate pair"),
    "no label": ("classification", {"prompt": "a"}, "no field 'label', found prompt"),
    "fewer tags than words": ("entities", WORDS | {"tags": ["O"]}, "2 tokens, and 1 tags"),
    "a tag that is none": ("entities", WORDS | {"tags": ["ORG", "O"]}, "tags[0] is 'ORG', neither O nor B- or I-"),
    "no words": ("entities", {"tokens": [], "tags": []}, "field 'tokens' is empty"),
    "another sentiment": ("financial-phrasebank", {"sentence": "a", "label": "good"}, "not one of negative, neutral"),
    "a score of 7": ("fiqa-sentiment", {"sentence": "a", "target": "b", "sentiment_score": 7}, "not between -1 and 1"),
    "a headline half right": ("financial-headlines", HEADLINE | {"PastNews": 0.5}, "'PastNews' is 0.5, not 0 or 1"),
    "a headline without a column": ("financial-headlines", {"News": "gold up"}, "no field 'Price or Not'"),
}
PRESETS = ("financial-phrasebank", "fiqa-sentiment", "financial-headlines", "financial-ner")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> DocumentTokenizer:
    return train_tokenizer(["the cat sees a dog"], 300, tmp_path_factory.mktemp("tokenizer"))


def freeze(
    folder: Path, kind: str, rows: list[Any], tokenizer: DocumentTokenizer, max_tokens: int = 4096, count: int = 0
) -> FrozenTask:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (folder / "test.jsonl").write_bytes(b"\n".join(lines))
    task: dict[str, Any] = {"name": "t", "test": {"uri": f"file://{folder}/test.jsonl"}}
    task["preset" if kind in PRESETS else "type"] = kind
    if count:
        task["shots"] = {"uri": f"file://{folder}/test.jsonl", "count": count}
    return build_tasks(build_recipe(folder, task), tokenizer, max_tokens).tasks[0]


def build_recipe(folder: Path, *tasks: dict[str, Any], objective: str = "causal-lm") -> Recipe:
    return Recipe.model_validate(
        {
            "objective": objective,
            "model": {"uri": f"file://{folder}/model"},
            "data": {"train": [{"uri": f"file://{folder}/text/"}]},
            "evaluation": {"tasks": list(tasks)},
            "output": {"uri": f"file://{folder}/output"},
        }
    )


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_told_by_file_and_line(tmp_path: Path, tokenizer: DocumentTokenizer, case: str) -> None:
    kind, row, want = BAD[case]
    good = {
        "multiple-choice": CHOICE,
        "classification": {"prompt": "a", "label": "b"},
        "entities": WORDS,
        "financial-phrasebank": {"sentence": "a", "label": 2},
        "fiqa-sentiment": {"sentence": "a", "target": "b", "sentiment_score": 0.5},
        "financial-headlines": HEADLINE,
    }[kind]
    with pytest.raises(UserError) as caught:
        freeze(tmp_path, kind, [good, row], tokenizer)
    assert caught.value.code is ExitCode.DATA_ERROR
    assert str(caught.value).startswith(f"file://{tmp_path}/test.jsonl:2: ")
    assert want in str(caught.value)


def test_a_file_without_records_is_refused(tmp_path: Path, tokenizer: DocumentTokenizer) -> None:
    with pytest.raises(UserError, match=r"evaluation\.tasks\[0\]\.test\.uri: .* has no records"):
        freeze(tmp_path, "classification", [], tokenizer)


@pytest.mark.parametrize(
    ("objective", "tasks", "want"),
    [
        ("masked-lm", [{"type": "entities"}], "evaluation.tasks are asked of models that predict the next token"),
        ("sft", [{"type": "entities"}] * 2, "two tasks have the same"),
        ("sft", [{}], "exactly one of preset, type"),
        ("sft", [{"type": "entities", "preset": "financial-ner"}], "exactly one of preset, type"),
    ],
)
def test_a_recipe_with_tasks_that_cannot_be_is_refused(
    tmp_path: Path, objective: str, tasks: list[dict[str, Any]], want: str
) -> None:
    given = [{"name": "t", "test": {"uri": "file:///t.jsonl"}, **task} for task in tasks]
    with pytest.raises(ValueError, match=want):
        build_recipe(tmp_path, *given, objective=objective)


def test_the_presets_ask_as_published(tmp_path: Path, tokenizer: DocumentTokenizer) -> None:
    def ask(preset: str, row: dict[str, Any]) -> list[tuple[str, Any]]:
        return [(item.prompt, item.target) for item in freeze(tmp_path, preset, [row], tokenizer).items]

    assert ask("financial-phrasebank", {"sentence": "Sales rose.", "label": 2}) == [
        ("Sales rose.\nQuestion: what is the sentiment?\nAnswer:", "positive")
    ]
    assert ask("fiqa-sentiment", {"sentence": "Down.", "target": "Acme", "sentiment_score": -0.4}) == [
        ("Down.\nQuestion: what is the sentiment on Acme?\nAnswer:", "negative")
    ]
    headlines = ask("financial-headlines", HEADLINE)
    assert headlines[1] == ("gold up\nQuestion: Does the news headline talk about price going up?\nAnswer:", "Yes")
    assert [target for _, target in headlines] == ["Yes", "Yes", "No", "No", "Yes", "No", "No", "No", "No"]
    words = {"tokens": ["Acme", "of", "X"], "tags": ["B-ORG", "O", "B-MISC"]}
    assert ask("financial-ner", words) == [("Acme of X\nExtract named entity:", ["B-ORG", "O", "O"])]


def test_shots_are_the_same_each_time_and_never_the_question(tmp_path: Path, tokenizer: DocumentTokenizer) -> None:
    rows = [{"prompt": f"number {i}:", "label": "ab"[i % 2]} for i in range(6)]
    task = freeze(tmp_path, "classification", rows, tokenizer, count=5)
    assert task == freeze(tmp_path, "classification", rows, tokenizer, count=5)
    for row, item in zip(rows, task.items, strict=True):
        *shots, asked = item.prompt.split("\n\n")
        assert asked == row["prompt"]
        assert sorted(shots) == sorted(f"{other['prompt']} {other['label']}" for other in rows if other is not row)
    shots = [Question(f"number {i}:", "a", "a") for i in range(20)]
    drawn = [[each.prompt for each in draw_shots(shots[0], shots, 3, seed)] for seed in ("0/t/0", "1/t/0")]
    assert drawn[0] != drawn[1]


def test_shots_that_do_not_fit_are_dropped_and_a_question_too_long_is_counted(
    tmp_path: Path, tokenizer: DocumentTokenizer
) -> None:
    rows = [{"prompt": "x" * 40, "label": "a"}, {"prompt": "y" * 41, "label": "a"}, {"prompt": "z" * 200, "label": "a"}]
    task = freeze(tmp_path, "classification", rows, tokenizer, max_tokens=60, count=2)
    assert [item.prompt for item in task.items] == ["x" * 40, "y" * 41]
    assert (task.dropped_shots, task.too_long) == (4, 1)
    with pytest.raises(UserError, match=r"no question of .* fits the model's 20 tokens"):
        freeze(tmp_path, "classification", rows, tokenizer, max_tokens=20)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (" positive", "positive"),
        ("\nPositive.", "positive"),
        ("neither negative nor positive", "negative"),
        ("nonpositive", None),
        ("", None),
        ("I cannot say\n\npositive", None),
        ("very positive", "very positive"),
        ("(neutral)", "neutral"),
    ],
)
def test_the_first_label_in_the_first_line_counts(text: str, want: str | None) -> None:
    assert find_label(text, ["negative", "neutral", "positive", "very positive"]) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (" Acme Corp (ORG), Paris (LOC)", ["B-ORG", "I-ORG", "O", "B-LOC", "O"]),
        ("Paris (LOC), Paris (LOC)", ["O", "O", "O", "B-LOC", "B-LOC"]),
        ("Bert (PER)", ["O"] * 5),
        ("None", ["O"] * 5),
        ("no idea", None),
        ("", None),
    ],
)
def test_entities_are_found_where_they_stand(text: str, want: list[str] | None) -> None:
    assert find_entities(text, ["Acme", "Corp", "in", "Paris", "Paris"]) == want


def test_what_a_shot_shows_is_found_again() -> None:
    tokens, tags = ["Acme", "Corp", "in", "Paris"], ["B-ORG", "I-ORG", "O", "B-LOC"]
    assert format_entities(tokens, tags) == "Acme Corp (ORG), Paris (LOC)"
    assert find_entities(format_entities(tokens, tags), tokens) == tags
    assert format_entities(["in"], ["O"]) == "None"


def test_scores_count_what_is_missing_as_wrong() -> None:
    def build(kind: Any, targets: list[Any], **fields: Any) -> FrozenTask:
        items = [Item(prompt="", prompt_ids=[], target=target, **fields) for target in targets]
        return FrozenTask(name="t", type=kind, metric="m", labels=["a", "b"], items=items)

    labels = score_texts(build("classification", ["a", "a", "b", "b"]), ["a", "what", "b", "a"])
    # a: precision 1/2, recall 1/2; b: precision 1, recall 1/2; each half of the support
    assert labels == {"accuracy": 0.5, "weightedF1": pytest.approx((0.5 + 2 / 3) / 2), "missing": 0.25}
    task = build("entities", [["B-X", "O"], ["B-X", "B-Y"]], tokens=["u", "v"])
    assert score_texts(task, ["u (X)", "u (Y), v (Y)"]) == {
        "entityF1": pytest.approx(2 / 3),
        "entityPrecision": pytest.approx(2 / 3),
        "entityRecall": pytest.approx(2 / 3),
        "missing": 0.0,
    }
    assert score_texts(task, ["", "None"])["missing"] == 0.5
    assert FrozenTasks.model_validate_json(FrozenTasks(tasks=[task]).to_json()).tasks == [task]
