"""eval.json: the losses and metrics of a run, and all it takes to measure them again."""

from __future__ import annotations

from typing import Any

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.data.records.kinds import kind_of_objective
from runyard_trainer.evaluation.judge.verdicts import INSTRUCTIONS
from runyard_trainer.export.report import JUDGE_DEFINITION, TrainedRun

OWN_TOKENIZER_DEFINITION = (
    "Tokens were added to the model's own tokenizer. The model as it came was measured with its own: the same text in "
    "ownTrainedTokens tokens. Its losses are told per token of the exported model, as loss x ownTrainedTokens / "
    "trainedTokens: so they compare as bits per byte do."
)


def describe_evaluation(trained: TrainedRun, recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """Return the content of eval.json: the losses, and all it takes to measure them again."""
    return {
        "before": trained.before and trained.before.model_dump(by_alias=True, exclude_none=True),
        "after": trained.after.model_dump(by_alias=True, exclude_none=True),
        "measured": [
            {"step": each.step, **each.losses.model_dump(by_alias=True, exclude_none=True)}
            for each in trained.candidates
        ],
        "exportedStep": trained.exported_step,
        "precision": trained.precision,
        "sequenceLength": recipe.training.sequence_length,
        "definition": kind_of_objective(recipe.objective).definition,
        "sets": {
            name: {
                "text": (dataset.location / f"{stream}.jsonl").uri,
                "documents": info.documents,
                "tokens": info.tokens,
                "bytes": info.bytes,
                **(info.fertility.model_dump(by_alias=True, exclude_none=True) if info.fertility is not None else {}),
            }
            for name, stream in (("domain", "validation"), ("general", "general"))
            if (info := dataset.info.streams.get(stream, StreamInfo())).documents
        },
        "tasks": {
            task.name: {
                "type": task.type,
                "metric": task.metric,
                "questions": len(task.items),
                "tooLong": task.too_long,
                "droppedShots": task.dropped_shots,
                "file": (dataset.location / f"tasks-{trained.tasks_sha256}.json").uri,
            }
            for task in trained.tasks.tasks
        },
        **({"ownTokenizer": _describe_own_tokenizer(dataset)} if dataset.info.new_tokens else {}),
        **({"judge": _describe_judge(trained, recipe, dataset)} if trained.judged is not None else {}),
    }


def _describe_own_tokenizer(dataset: Dataset) -> dict[str, Any]:
    info = dataset.info
    return {
        "newTokens": len(info.new_tokens),
        "definition": OWN_TOKENIZER_DEFINITION,
        "sets": {
            name: {"trainedTokens": info.streams[stream].trained_tokens, "ownTrainedTokens": own.trained_tokens}
            for name, stream in (("domain", "validation"), ("general", "general"))
            if (own := info.base_streams.get(stream, StreamInfo())).documents
        },
    }


def _describe_judge(trained: TrainedRun, recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    assert trained.judged is not None
    assert recipe.evaluation.judge is not None
    return {
        "endpoint": recipe.evaluation.judge.endpoint,
        "model": recipe.evaluation.judge.model,
        "instructions": INSTRUCTIONS,
        "definition": JUDGE_DEFINITION,
        "file": (dataset.location / f"prompts-{trained.prompts_sha256}.json").uri,
        **trained.judged.judgement.model_dump(by_alias=True, exclude_none=True),
        "comparisons": trained.judged.model_dump(by_alias=True)["comparisons"],
    }
