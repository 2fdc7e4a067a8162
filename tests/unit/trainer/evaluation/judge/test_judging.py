"""The judge: what its verdicts amount to, and how its server is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Judgement
from runyard_trainer.contract.services import Judge
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer, train_tokenizer
from runyard_trainer.evaluation.judge.judging import AnswerPair, Judging
from runyard_trainer.evaluation.judge.prompts import build_prompts
from runyard_trainer.evaluation.judge.verdicts import combine_verdicts, parse_verdict, wilson_interval
from runyard_trainer.services.chat_completions import check_judge
from runyard_trainer.services.http import read_retry_after
from scipy.stats import binomtest

from tests.judge_server import JudgeServer, running_judge

KEY = "sk-of-the-test"
PAIRS = [
    AnswerPair("grew", "no", "yes, and more"),
    AnswerPair("shrank", "it was long", "short"),
    AnswerPair("stayed", "same", " same"),
    AnswerPair("as long", "abc", "def"),
]


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with running_judge(KEY) as server:
        yield server


def judge_of(server: JudgeServer, model: str) -> Judge:
    return Judge.model_validate(
        {"endpoint": server.endpoint, "model": model, "prompts": {"uri": "file:///p.jsonl"}, "secretName": "key"}
    )


def test_an_answer_wins_only_where_it_is_better_in_both_orders() -> None:
    outcomes = {(one, other): combine_verdicts(one, other) for one in "ABC" for other in "ABC"}
    assert [pair for pair, outcome in outcomes.items() if outcome == "win"] == [("B", "A")]
    assert [pair for pair, outcome in outcomes.items() if outcome == "loss"] == [("A", "B")]
    assert set(outcomes.values()) == {"win", "loss", "tie"}
    assert combine_verdicts("A", None) is combine_verdicts(None, "A") is None


@pytest.mark.parametrize(
    ("reply", "want"), [("[[A]]", "A"), ("not [[A]]\n[[B]].", "B"), ("[A]", None), ("", None), ("[[D]]", None)]
)
def test_the_last_verdict_of_a_reply_counts(reply: str, want: str | None) -> None:
    assert parse_verdict(reply) == want


@pytest.mark.parametrize(("wins", "count"), [(0, 1), (3, 10), (10, 10), (70, 128)])
def test_the_interval_is_scipys_for_wins_and_losses(wins: int, count: int) -> None:
    want = binomtest(wins, count).proportion_ci(method="wilson")
    assert wilson_interval(wins / count, count) == pytest.approx((want.low, want.high))


def test_answers_are_compared_in_both_orders_and_equal_ones_not_at_all(server: JudgeServer) -> None:
    judged = Judging(judge_of(server, "longest"), KEY, PAIRS).finish()
    assert [each.outcome for each in judged.comparisons] == ["win", "loss", "tie", "tie"]
    low, high = wilson_interval(0.5, 4)
    assert judged.judgement == Judgement(wins=1, ties=2, losses=1, win_rate=0.5, low=low, high=high)
    asked = server.stop()
    assert len(asked) == 6, "the equal ones are not asked about"
    assert all(each["temperature"] == 0 and "tools" not in each for each in asked)


def test_a_judge_that_always_likes_the_first_finds_ties(server: JudgeServer) -> None:
    judged = Judging(judge_of(server, "first"), KEY, PAIRS).finish()
    assert (judged.judgement.ties, judged.judgement.unjudged) == (4, 0)


def test_a_busy_server_is_asked_again_after_as_long_as_it_says(server: JudgeServer) -> None:
    judged = Judging(judge_of(server, "busy"), KEY, PAIRS).finish()
    assert (judged.judgement.wins, judged.judgement.unjudged) == (1, 0)
    assert len(server.stop()) == 12


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    assert read_retry_after("7", 0.0) == 7
    assert read_retry_after("Thu, 01 Jan 1970 00:00:30 GMT", 10.0) == 20
    assert read_retry_after("soon", 0.0) is read_retry_after(None, 0.0) is None


@pytest.mark.parametrize("model", ["silent", "html", "null"])
def test_replies_without_a_verdict_are_counted_and_told(server: JudgeServer, model: str) -> None:
    judged = Judging(judge_of(server, model), KEY, PAIRS).finish()
    assert judged.judgement.unjudged == 3
    assert judged.judgement.message == "the judge gave no verdict on 3 of 4 prompts"


@pytest.mark.parametrize(
    ("model", "key", "words"),
    [
        ("failing", KEY, "answered 500"),
        ("longest", "sk-wrong", "answered 401"),
        ("elsewhere", KEY, "answered 307"),
    ],
)
def test_a_server_that_cannot_be_asked_costs_the_verdicts_and_nothing_else(
    server: JudgeServer, model: str, key: str, words: str
) -> None:
    judged = Judging(judge_of(server, model), key, PAIRS).finish()
    assert judged.judgement.unjudged >= 3
    assert words in (judged.judgement.message or "")
    assert key not in judged.to_json()
    assert all(each["path"] == "/v1/chat/completions" for each in server.stop()), "a redirect is not followed"


@pytest.mark.parametrize(
    ("model", "key", "words"),
    [
        ("longest", "sk-wrong", ["401", "secretName"]),
        ("longest", None, ["JUDGE_API_KEY", "Secret key"]),
        ("html", KEY, ["is no chat completion", "/v1"]),
        ("elsewhere", KEY, ["307"]),
    ],
)
def test_prepare_refuses_a_judge_that_cannot_be_asked(
    server: JudgeServer, model: str, key: str | None, words: list[str]
) -> None:
    with pytest.raises(UserError) as refused:
        check_judge(judge_of(server, model), key)
    assert all(word in str(refused.value) for word in words)
    assert "sk-wrong" not in str(refused.value)


def test_prepare_takes_a_judge_that_answers(server: JudgeServer) -> None:
    check_judge(judge_of(server, "busy"), KEY)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> DocumentTokenizer:
    return train_tokenizer(["the cat sees a dog"], 300, tmp_path_factory.mktemp("tokenizer"))


def build_recipe(folder: Path, **parts: Any) -> Recipe:
    judge = {"endpoint": "http://judge/v1", "model": "j", "prompts": {"uri": f"file://{folder}/prompts.jsonl"}}
    return Recipe.model_validate(
        {
            "model": {"uri": f"file://{folder}/model"},
            "data": {"train": [{"uri": f"file://{folder}/text/"}]},
            "evaluation": {"judge": judge, **parts.pop("evaluation", {})},
            "output": {"uri": f"file://{folder}/output"},
            **parts,
        }
    )


BAD: dict[str, tuple[Any, str]] = {
    "neither field": ({"question": "a"}, "expected one of the fields 'prompt' and 'messages', found neither"),
    "both fields": ({"prompt": "a", "messages": []}, "found prompt and messages"),
    "an empty prompt": ({"prompt": " "}, "field 'prompt' is empty"),
    "a number": ({"prompt": 1}, "field 'prompt' is a number, not a string"),
    "no messages": ({"messages": []}, "field 'messages' is an empty list, not a list of messages"),
    "an answer at the end": ({"messages": [{"role": "assistant", "content": "a"}]}, "end with the user's"),
    "a stranger": ({"messages": [{"role": "tool", "content": "a"}]}, "'messages[0].role' is 'tool': write one of"),
    "no template": ({"messages": [{"role": "user", "content": "a"}]}, "has no chat template"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_prompt_is_told_by_file_and_line(tmp_path: Path, tokenizer: DocumentTokenizer, case: str) -> None:
    row, words = BAD[case]
    (tmp_path / "prompts.jsonl").write_text(json.dumps(row if case == "no template" else {"prompt": "good"}) + "\n")
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(UserError) as refused:
        build_prompts(build_recipe(tmp_path), tokenizer, 64)
    assert f"prompts.jsonl:{1 if case == 'no template' else 2}" in str(refused.value)
    assert words in str(refused.value)


def test_prompts_are_spread_evenly_and_those_without_room_are_left_out(
    tmp_path: Path, tokenizer: DocumentTokenizer
) -> None:
    rows = [{"prompt": f"{'the cat ' * (40 if i == 0 else 1)}{i}"} for i in range(256)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    frozen = build_prompts(build_recipe(tmp_path), tokenizer, 64)
    assert [each.text for each in frozen.prompts] == [row["prompt"] for row in rows[2::2]]
    assert (frozen.records, frozen.too_long, frozen.max_new_tokens) == (256, 1, 32)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"objective": "masked-lm"}, "compares what models write"),
        ({"evaluation": {"before": False}}, "leave evaluation.before true"),
        ({"model": {"scratch": {"config": {}, "tokenizer": {"train": {}}}}}, "give model.uri"),
    ],
)
def test_a_judge_without_two_models_that_write_is_refused(tmp_path: Path, parts: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        build_recipe(tmp_path, **parts)
