"""Leave the finished run on storage: the model folder, eval.json, lineage.json, metrics.csv, report.html and
TensorBoard's events.

    all ranks   gather the full weights ─> rank 0   model/ (, adapter/) in scratch ─> upload
                                                    eval.json, lineage.json, metrics.csv, report.html ─> upload
    all ranks   wait, and get the same Result

The weights are written as they were evaluated, in fp32, so that the loss which eval.json claims is the loss of the
files. Of an adapter, adapter/ is always left, and model/ with its sum unless the recipe says not to merge: then
adapter/ is the result, and what was frozen is not even gathered. Every file is put whole and under its own name: an
export that was killed midway is made again over what it left. The run is finished only when the caller swaps the
Result into head.json.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import PreTrainedModel

from runyard_trainer.context import RunContext
from runyard_trainer.contract.objectives import OBJECTIVES
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Losses, Result
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.manifest import StreamInfo, check_sha256
from runyard_trainer.evaluation.judge.judging import Judging
from runyard_trainer.export.continuations import choose_prompts, write_continuations
from runyard_trainer.export.eval_json import describe_evaluation
from runyard_trainer.export.lineage import build_lineage, read_source_lineage
from runyard_trainer.export.report import RunSummary, TrainedRun, render_card, render_report
from runyard_trainer.models.adapter import load_whole, merge
from runyard_trainer.models.folder import CARD_NAME, digest_of, files_of
from runyard_trainer.models.generation import Generation, add_ends, list_ends, write_generation
from runyard_trainer.models.quantized import packed_layers
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.ranks.distributed import run_on_rank_0
from runyard_trainer.storage.base import Location
from runyard_trainer.storage.disk import explain_full_disk
from runyard_trainer.tracking.scalars import build_events
from runyard_trainer.training.sharded_model import build_empty_model

MAX_SHARD_SIZE = "5GB"
EVENTS_FILE = "tensorboard/events.out.tfevents.runyard"


@dataclass(frozen=True)
class Sizes:
    """The sizes of a whole model, whatever part of it this rank holds."""

    parameters: int
    trained: int
    """The number of parameters that are trained."""
    rows: int
    """The number of rows of the embeddings."""


def export_run(
    model: PreTrainedModel,
    trained: TrainedRun,
    recipe: Recipe,
    context: RunContext,
    dataset: Dataset,
    output: Location,
    judging: Judging | None = None,
    generation: Generation | None = None,
) -> Result:
    """Write everything a run leaves under `output`; all ranks call this together and get the same Result.

    Args:
        model: the transformers model itself, sharded or not, without the objective's wrapper.
        trained: what the loop measured.
        recipe: what was asked.
        context: whose run this is, and the world.
        dataset: the prepared data it trained on.
        output: where `output.uri` lies.
        judging: on rank 0, what is being asked of a judge: waited for once the model is uploaded.
        generation: on rank 0, how the model that came writes; None where its folder does not say, or it writes nothing.
    """
    weights = gather_weights(model, trained_only=recipe.method.is_adapter and not recipe.method.is_merged)
    num_packed = sum(layer.shape.numel() for layer in packed_layers(model).values())
    sizes = Sizes(
        parameters=num_packed + sum(parameter.numel() for parameter in model.parameters()),
        trained=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        rows=model.config.get_text_config().vocab_size,
    )

    def write() -> Result:
        scratch_dir = context.scratch_dir
        with (
            explain_full_disk("write the model", scratch_dir),
            TemporaryDirectory(prefix="runyard-export-", dir=scratch_dir) as scratch,
        ):
            folders = write_folders(model, weights, Path(scratch), recipe, dataset)
            if generation is not None:
                write_ends(generation, folders, model, dataset)
            upload(folders, dataset, output)
            return _leave(folders, sizes, trained, judging, recipe, context, dataset, output)

    return run_on_rank_0(write, context.world)


def gather_weights(model: PreTrainedModel, trained_only: bool = False) -> dict[str, Any]:
    """Gather the full weights on CPU by the names that transformers gives them, tied ones once; empty but on rank 0."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained_only)
    weights = get_model_state_dict(model, options=options)
    for tied in model.all_tied_weights_keys:
        weights.pop(tied, None)
    if weights and not trained_only:
        weights |= {name: layer.unpack() for name, layer in packed_layers(model).items()}
    return weights


def write_folders(
    model: PreTrainedModel, weights: dict[str, Any], scratch_dir: Path, recipe: Recipe, dataset: Dataset
) -> dict[str, Path]:
    """Write the gathered weights as the folders of an export, by name, the result first."""
    if not recipe.method.is_adapter:
        model.save_pretrained(scratch_dir / "model", state_dict=weights, max_shard_size=MAX_SHARD_SIZE)
        return {"model": scratch_dir / "model"}
    _, adapted = build_empty_model(model.config, build_objective(recipe, dataset.info), recipe)
    assert adapted is not None
    folders = {"adapter": scratch_dir / "adapter"}
    prefixed = {f"base_model.model.{name}": weight for name, weight in weights.items()}
    has_new_rows = recipe.model.extend_vocabulary is not None
    adapted.save_pretrained(str(folders["adapter"]), state_dict=prefixed, save_embedding_layers=has_new_rows)
    if not recipe.method.is_merged:
        return folders
    load_whole(adapted, weights)
    merge(adapted).save_pretrained(scratch_dir / "model", max_shard_size=MAX_SHARD_SIZE)
    return {"model": scratch_dir / "model", **folders}


def write_ends(generation: Generation, folders: dict[str, Path], model: PreTrainedModel, dataset: Dataset) -> None:
    """Write generation_config.json: the start model's, with the tokens that end the answers it was trained on added."""
    known = list_ends({"eos_token_id": getattr(model.config, "eos_token_id", None)})
    added = add_ends(generation, dataset.info.stop_token_ids, known)
    for folder in folders.values():
        write_generation(added, folder)


def _leave(
    folders: dict[str, Path],
    sizes: Sizes,
    trained: TrainedRun,
    judging: Judging | None,
    recipe: Recipe,
    context: RunContext,
    dataset: Dataset,
    output: Location,
) -> Result:
    """Write the cards of the uploaded folders, and what goes beside them."""
    name, folder = next(iter(folders.items()))
    continuations = write_continuations(folder, choose_prompts(_held_out_texts(dataset))) if _writes(recipe) else []
    if judging is not None:
        trained = replace(trained, judged=judging.finish())
    lineage = build_lineage(
        recipe, context, _describe_dataset(dataset, trained), read_source_lineage(recipe), datetime.now(UTC)
    )
    summary = RunSummary(
        name=context.run_name,
        recipe=recipe,
        trained=trained,
        attempts=context.attempt,
        processes=context.world.size,
        accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        num_parameters=sizes.parameters,
        num_trained=sizes.trained,
        num_labels=len(dataset.info.labels),
        num_new_tokens=len(dataset.info.new_tokens),
        num_rows=sizes.rows,
        streams=dataset.info.streams,
        continuations=continuations,
        lineage=lineage,
        model_uri=(output / name).uri,
    )
    for kind, path in folders.items():
        card = render_card(summary, is_adapter=kind == "adapter")
        (path / CARD_NAME).write_text(card, encoding="utf-8")
        (output / kind / CARD_NAME).put(card.encode())
    for file, text in {
        "eval.json": _to_json(describe_evaluation(trained, recipe, dataset)),
        "lineage.json": _to_json(lineage),
        "metrics.csv": trained.metrics_csv,
        "report.html": render_report(summary),
    }.items():
        (output / file).put(text.encode())
    (output / EVENTS_FILE).put(build_events(trained.metrics_csv, trained.before, trained.candidates))
    return Result(
        uri=summary.model_uri,
        report=(output / "report.html").uri,
        digest=digest_of(folder),
        step=trained.exported_step,
        warning=trained.warning,
        before=trained.before and _quote(trained.before, trained),
        after=_quote(trained.after, trained),
        judgement=trained.judged and trained.judged.judgement,
        tracking=trained.tracking_url,
    )


def _quote(losses: Losses, trained: TrainedRun) -> Losses:
    """Keep the one metric of each task that is quoted: a Result travels in a termination message."""
    if losses.tasks is None:
        return losses
    quoted = {task.name: {task.metric: losses.tasks[task.name][task.metric]} for task in trained.tasks.tasks}
    return losses.model_copy(update={"tasks": quoted})


def upload(folders: dict[str, Path], dataset: Dataset, output: Location) -> None:
    """Put the folders, with their tokenizer and yet without a card, where they belong."""
    for name, path in folders.items():
        _copy_tokenizer(dataset, path)
        _upload_folder(path, output / name)


def _copy_tokenizer(dataset: Dataset, folder: Path) -> None:
    source = dataset.location / "tokenizer"
    with TemporaryDirectory(prefix="tokenizer-", dir=folder.parent) as found:
        for info in source.list():
            name = info.key.rpartition("/")[2]
            (source / name).download_file(Path(found) / name)
        check_sha256(source, digest_of(Path(found)), dataset.info.tokenizer_digest or None)
        shutil.copytree(found, folder, dirs_exist_ok=True)


def _writes(recipe: Recipe) -> bool:
    """Return whether the exported model goes on from a text; an adapter alone does nothing."""
    return OBJECTIVES[recipe.objective].continues_text and (recipe.method.is_merged or not recipe.method.is_adapter)


def _held_out_texts(dataset: Dataset) -> Iterator[str]:
    if dataset.info.streams.get("validation", StreamInfo()).documents:
        with (dataset.location / "validation.jsonl").open() as lines:
            for line in lines:
                if text := json.loads(line).get("text"):  # what came as token ids has none
                    yield text


def _describe_dataset(dataset: Dataset, trained: TrainedRun) -> dict[str, str]:
    manifest = dataset.location / "dataset.json"
    asked = {"tasks": trained.tasks_sha256, "prompts": trained.prompts_sha256}
    frozen = {name: sha256 for name, sha256 in asked.items() if sha256 is not None}
    return {"uri": manifest.uri, "sha256": hashlib.sha256(manifest.get().data).hexdigest(), **frozen}


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
