"""For each rule across fields of a TrainingRun: a spec that breaks it, and a neighbour that keeps it."""

from __future__ import annotations

from typing import Any, NamedTuple

Spec = dict[str, Any]

SMALLEST: Spec = {
    "model": {"uri": "s3://models/pythia-1b"},
    "data": {"train": [{"uri": "s3://corpora/filings/"}]},
    "output": {"uri": "s3://models/fin-pythia-1b"},
    "compute": {},
}


class Case(NamedTuple):
    """The fields in place of those of `SMALLEST`."""

    broken: Spec
    kept: Spec


def _data(**fields: Any) -> Spec:
    return {"data": {"train": [{"uri": "s3://c/f"}], **fields}}


def _source(**fields: Any) -> list[Spec]:
    return [{"uri": "s3://c/g", **fields}]


def _select(method: str, **fields: Any) -> Spec:
    return _data(select={"method": method, "fraction": 0.5, **fields})


def _scratch(**tokenizer: Any) -> Spec:
    return {"scratch": {"config": {}, "tokenizer": tokenizer or {"uri": "s3://t/t"}}}


def _task(**fields: Any) -> Spec:
    return {"name": "t", "test": {"uri": "s3://t/t.jsonl"}, **fields}


def _evaluation(**fields: Any) -> Spec:
    return {"evaluation": fields}


_MODEL = {"uri": "s3://m/m"}
_DIGEST = f"sha256:{'0' * 64}"
_NER = _task(preset="financial-ner")
_JUDGE = {"endpoint": "http://judge/v1", "model": "j", "prompts": {"uri": "s3://p/p.jsonl"}}
_SELF_REPLAY = _data(replay={"fraction": 0.1, "source": "self"})
_EXTENDED = {**_MODEL, "extendVocabulary": {"tokens": 100}}
_TASK_TEXT = {"target": _source()}
_KNOWN_TEXT = {"reference": _source()}
_SIMILAR = _select("similarity", **_TASK_TEXT)
_NEW = _select("novelty-diversity", **_KNOWN_TEXT)


def _adapter(field: str, value: Any) -> Case:
    return Case({"method": {field: value}}, {"method": {"type": "lora", field: value}})


def _formats(field: str) -> Case:
    conversations = _source(format="messages")
    data = {
        "train": _data(train=conversations),
        "replay": _data(replay={"fraction": 0.1, "sources": conversations}),
        "validation": _data(validation={"sources": conversations}),
    }[field]
    return Case(data, {**data, "objective": "sft"})


BROKEN: dict[str, Case] = {
    "two models": Case({"model": {**_MODEL, **_scratch()}}, {"model": _scratch()}),
    "tokens for a model without any": Case({"model": {**_scratch(), "extendVocabulary": {"tokens": 9}}},
                                           {"model": _EXTENDED}),
    "the digest of no folder": Case({"model": {"run": {"name": "r"}, "digest": _DIGEST}},
                                    {"model": {**_MODEL, "digest": _DIGEST}}),
    "a step of no folder": Case({"model": {"run": {"name": "r"}, "step": 1}}, {"model": {**_MODEL, "step": 1}}),
    "two weights of a folder": Case({"model": {**_MODEL, "digest": _DIGEST, "step": 1}},
                                    {"model": {**_MODEL, "step": 1}}),
    "no model": Case({"model": {}}, {"model": _MODEL}),
    "two tokenizers": Case({"model": _scratch(uri="s3://t/t", train={})}, {"model": _scratch(train={})}),
    "an adapter's rank": _adapter("rank", 8),
    "an adapter's alpha": _adapter("alpha", 8),
    "an adapter's dropout": _adapter("dropout", 0.1),
    "an adapter's targets": _adapter("targets", ["q_proj"]),
    "an adapter's merge": _adapter("merge", False),
    "two kinds of held-out data": Case(_data(validation={"fraction": 0, "sources": _source()}),
                                       _data(validation={"sources": _source()})),
    "replay of both kinds": Case(_data(replay={"fraction": 0.1, "sources": _source(), "source": "self"}), _SELF_REPLAY),
    "the texts that surprise most": Case(_select("perplexity"), _NEW),
    "texts like those of no task": Case(_select("similarity"), _SIMILAR),
    "a task that is not asked about": Case(_select("novelty-diversity", **_KNOWN_TEXT, **_TASK_TEXT), _NEW),
    "known text that is not asked about": Case(_select("similarity", **_TASK_TEXT, **_KNOWN_TEXT),
                                               _select("combined", **_TASK_TEXT, **_KNOWN_TEXT)),
    "noise that is not asked about": Case(_select("similarity", **_TASK_TEXT, noiseClip=0.1),
                                          _select("novelty-diversity", **_KNOWN_TEXT, noiseClip=0.1)),
    "more than all documents": Case(_select("novelty-diversity", **_KNOWN_TEXT, noiseClip=0.5, fraction=0.51),
                                    _select("novelty-diversity", **_KNOWN_TEXT, noiseClip=0.5)),
    "conversations of a task": Case(_select("similarity", target=_source(format="messages")), _SIMILAR),
    "conversations that are known": Case(_select("novelty-diversity", reference=_source(format="alpaca")), _NEW),
    "what is new to a model of which nothing is known": Case(_select("novelty-diversity"), _data(
        select={"method": "novelty-diversity", "fraction": 0.5}, replay={"fraction": 0.1, "sources": _source()})),
    "a weight against nothing": Case(_data(train=_source(weight=2)), _data(train=[*_source(weight=2), *_source()])),
    "two lengths": Case({"training": {"steps": 1, "epochs": 1}}, {"training": {"steps": 1}}),
    "two batches": Case({"training": {"steps": 1, "batchTokens": 2048, "batchSequences": 1}},
                        {"training": {"steps": 1, "batchTokens": 2048}}),
    "a batch that is no whole number of sequences": Case({"training": {"steps": 1, "batchTokens": 2049}},
                                                         {"training": {"steps": 1, "batchTokens": 4096}}),
    "conversations as general text": Case(_evaluation(general=_source(format="conversations")),
                                          _evaluation(general=_source(format="jsonl"))),
    "an increase of nothing": Case(_evaluation(maxGeneralLossIncrease=0.1),
                                   _evaluation(maxGeneralLossIncrease=0.1, general=_source())),
    "two tasks of one name": Case(_evaluation(tasks=[_NER, _NER]), _evaluation(tasks=[_NER, {**_NER, "name": "u"}])),
    "a task of no type": Case(_evaluation(tasks=[_task()]), _evaluation(tasks=[_task(type="entities")])),
    "conversations to train a model of text": _formats("train"),
    "conversations to replay to a model of text": _formats("replay"),
    "conversations to validate a model of text": _formats("validation"),
    "a choice among labelled texts": Case({"objective": "classification", **_SIMILAR},
                                          {"objective": "masked-lm", **_SIMILAR}),
    "early stopping without measurements": Case(
        {"training": {"steps": 1, "earlyStopping": {}}},
        {"training": {"steps": 1, "earlyStopping": {}}, **_evaluation(everySteps=1)},
    ),
    "tasks for an encoder": Case({"objective": "masked-lm", **_evaluation(tasks=[_NER])}, _evaluation(tasks=[_NER])),
    "a judge of encoders": Case({"objective": "masked-lm", **_evaluation(judge=_JUDGE)}, _evaluation(judge=_JUDGE)),
    "a judge of one model": Case({"model": _scratch(), **_evaluation(judge=_JUDGE)}, _evaluation(judge=_JUDGE)),
    "whole words where nothing is masked": Case({"masking": {"wholeWord": True}},
                                                {"masking": {"wholeWord": True}, "objective": "masked-lm-nsp"}),
    "WordPiece for a model that writes": Case(
        {"model": _scratch(train={"type": "wordpiece"})},
        {"model": _scratch(train={"type": "wordpiece"}), "objective": "masked-lm"},
    ),
    "a classifier from random weights": Case({"objective": "classification", "model": _scratch()},
                                             {"objective": "masked-lm", "model": _scratch()}),
    "general text for a classifier": Case({"objective": "classification", **_evaluation(general=_source())},
                                          {"objective": "preference", **_evaluation(general=_source())}),
    "an adapter of a model that knows nothing": Case({"method": {"type": "lora"}, "model": _scratch()},
                                                     {"method": {"type": "lora"}}),
    "preference with dropout": Case({"objective": "preference", "method": {"type": "lora", "dropout": 0.1}},
                                    {"objective": "preference", "method": {"type": "lora", "dropout": 0}}),
    "a beta without preference": Case({"preference": {"beta": 1}},
                                      {"preference": {"beta": 1}, "objective": "preference"}),
    "an encoder that replays itself": Case({"objective": "masked-lm", **_SELF_REPLAY}, _SELF_REPLAY),
    "a model that knows nothing and replays it": Case({"model": _scratch(), **_SELF_REPLAY}, _SELF_REPLAY),
    "more tokens for an encoder": Case({"objective": "masked-lm", "model": _EXTENDED},
                                       {"objective": "sft", "model": _EXTENDED}),
    "more tokens for a model that replays itself": Case({"model": _EXTENDED, **_SELF_REPLAY}, {"model": _EXTENDED}),
    "the output over the model": Case({"model": _MODEL, "output": {"uri": "s3://m/m/"}},
                                      {"model": _MODEL, "output": {"uri": "s3://m/m/n"}}),
    "the output among the text": Case({"output": {"uri": "s3://corpora/filings"}}, {"output": {"uri": "s3://corpora/filing"}}),
    "weights of 4 bits on CPUs": Case({"method": {"type": "qlora"}, "compute": {"gpusPerNode": 0}},
                                      {"method": {"type": "qlora"}}),
    "fewer nodes where Kueue admits all or none": Case(
        {"compute": {"nodes": 2, "minNodes": 1}, "queue": {"name": "gpus"}}, {"compute": {"nodes": 2, "minNodes": 1}}),
    "more nodes at least than at most": Case({"compute": {"nodes": 2, "minNodes": 3}},
                                             {"compute": {"nodes": 2, "minNodes": 2}}),
}  # fmt: skip
