"""Leave the finished run on storage: the model folder, eval.json, lineage.json, metrics.csv and report.html.

    all ranks   gather the full weights ─> rank 0   model/ in scratch ─> samples ─> upload
                                                    eval.json, lineage.json, metrics.csv, report.html ─> upload
    all ranks   wait, and get the same Result

The weights are written as they were evaluated, in fp32, so that the loss which eval.json claims is the loss of the
files. Every file is put whole and under its own name: an export that was killed midway is made again over what it left.
The run is finished only when the caller swaps the Result into head.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import PreTrainedModel

from runyard_trainer.checkpoint_files import told_when_full
from runyard_trainer.context import RunContext
from runyard_trainer.contract import Recipe
from runyard_trainer.distributed import run_on_rank_0
from runyard_trainer.lineage import build_lineage, read_source_lineage
from runyard_trainer.model_folder import digest_of, files_of
from runyard_trainer.outcome import Result
from runyard_trainer.report import RunSummary, TrainedRun, render_card, render_report
from runyard_trainer.samples import choose_prompts, write_samples
from runyard_trainer.shard_files import StreamInfo
from runyard_trainer.shards import Dataset
from runyard_trainer.storage import Location

MAX_SHARD_SIZE = "5GB"

EVAL_DEFINITION = (
    "Each document of `text` is tokenized without adding special tokens and gets one end-of-document token; the "
    "documents are laid one after the other and cut every sequenceLength tokens, the last window padded. Position ids "
    "restart at the start of each document and window (no attention mask, no cache), so that no token attends to or is "
    "predicted from another document. A loss is the mean of -ln p over the predicted tokens, in nats; bits per byte "
    "are loss x tokens / (ln 2 x bytes)."
)


def export_run(
    model: PreTrainedModel,
    trained: TrainedRun,
    recipe: Recipe,
    context: RunContext,
    dataset: Dataset,
    output: Location,
) -> Result:
    """Write everything a run leaves under `output`; all ranks call this together and get the same Result.

    Args:
        model: the transformers model itself, sharded or not, without the objective's wrapper.
        trained: what the loop measured.
        recipe: what was asked.
        context: whose run this is, and the world.
        dataset: the prepared data it trained on.
        output: where `output.uri` lies.
    """
    weights = gather_weights(model)

    def write() -> Result:
        scratch_dir = context.scratch_dir
        with (
            told_when_full("write the model", scratch_dir),
            TemporaryDirectory(prefix="runyard-export-", dir=scratch_dir) as scratch,
        ):
            folder = Path(scratch)
            num_parameters = sum(tensor.numel() for tensor in weights.values())  # before they are written, and dropped
            model.save_pretrained(folder, state_dict=weights, max_shard_size=MAX_SHARD_SIZE)
            return _leave(folder, num_parameters, trained, recipe, context, dataset, output)

    return run_on_rank_0(write, context.world)


def gather_weights(model: PreTrainedModel) -> dict[str, Any]:
    """The full weights on CPU by the names that transformers gives them, tied ones once; empty but on rank 0."""
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    for tied in model.all_tied_weights_keys:
        weights.pop(tied, None)
    return weights


def _leave(
    folder: Path,
    num_parameters: int,
    trained: TrainedRun,
    recipe: Recipe,
    context: RunContext,
    dataset: Dataset,
    output: Location,
) -> Result:
    """Complete the model folder, upload it and what goes beside it."""
    _copy_tokenizer(dataset, folder)
    lineage = build_lineage(recipe, context, _describe_dataset(dataset), read_source_lineage(recipe), datetime.now(UTC))
    summary = RunSummary(
        name=context.run_name,
        recipe=recipe,
        trained=trained,
        attempts=context.attempt,
        processes=context.world.size,
        accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        num_parameters=num_parameters,
        streams=dataset.info.streams,
        samples=write_samples(folder, choose_prompts(_held_out_texts(dataset))) if _writes(recipe) else [],
        lineage=lineage,
        model_uri=(output / "model").uri,
    )
    (folder / "README.md").write_text(render_card(summary), encoding="utf-8")
    _upload_folder(folder, output / "model")
    for name, text in {
        "eval.json": _to_json(describe_evaluation(trained, recipe, dataset)),
        "lineage.json": _to_json(lineage),
        "metrics.csv": trained.metrics_csv,
        "report.html": render_report(summary),
    }.items():
        (output / name).put(text.encode())
    return Result(
        uri=(output / "model").uri,
        report=(output / "report.html").uri,
        digest=digest_of(folder),
        step=trained.exported_step,
        warning=trained.warning,
        before=trained.before,
        after=trained.after,
    )


def describe_evaluation(trained: TrainedRun, recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """What eval.json holds: the losses, and all it takes to measure them again."""
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
        "definition": EVAL_DEFINITION,
        "sets": {
            name: {
                "text": (dataset.location / f"{stream}.jsonl").uri,
                "documents": info.documents,
                "tokens": info.tokens,
                "bytes": info.bytes,
            }
            for name, stream in (("domain", "validation"), ("general", "general"))
            if (info := dataset.info.streams.get(stream, StreamInfo())).documents
        },
    }


def _copy_tokenizer(dataset: Dataset, folder: Path) -> None:
    source = dataset.location / "tokenizer"
    for info in source.list():
        name = info.key.rpartition("/")[2]
        (source / name).download_file(folder / name)


def _writes(recipe: Recipe) -> bool:
    """Whether the model goes on from a text."""
    return recipe.objective == "causal-lm"


def _held_out_texts(dataset: Dataset) -> Iterator[str]:
    if dataset.info.streams.get("validation", StreamInfo()).documents:
        with (dataset.location / "validation.jsonl").open() as lines:
            for line in lines:
                yield json.loads(line)["text"]


def _describe_dataset(dataset: Dataset) -> dict[str, str]:
    manifest = dataset.location / "dataset.json"
    return {"uri": manifest.uri, "sha256": hashlib.sha256(manifest.get().data).hexdigest()}


def _upload_folder(folder: Path, target: Location) -> None:
    """Upload each file, and delete what another world's export, killed midway, may have left besides."""
    names = {path.name for path in files_of(folder)}
    for name in sorted(names):
        (target / name).upload_file(folder / name)
    for info in list(target.list()):
        name = info.key.rpartition("/")[2]
        if name not in names:
            (target / name).delete()


def _to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
