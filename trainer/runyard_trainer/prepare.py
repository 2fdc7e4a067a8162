"""From text in storage to token shards in storage, on CPUs, before a GPU is spent.

    probe and claim the output ─> check the model ─> list the text ─> key of what was found
      ─> prepared already? ── no ──> tokenizer ─> documents ─> shards ─> dataset.json, last
      ─> resolved.json beside the output, last of all

Everything a person can get wrong in a recipe shows here. Doing it again is quick and changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import PretrainedConfig

from runyard_trainer.context import RunContext
from runyard_trainer.contract.data import DEFAULT_NOISE_CLIP
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.objectives import MASKED_OBJECTIVES
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import DataSummary, Estimate, PodReport, Report
from runyard_trainer.data.dataset.dataset import Dataset, DatasetInfo, Resolved, open_dataset
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.data.filters.screening import tell_left_out
from runyard_trainer.data.order import count_epoch
from runyard_trainer.data.records.kinds import kind_of, parts_of
from runyard_trainer.data.run_length import count_steps, resolve_batch
from runyard_trainer.data.tokenizers.tokenizer import list_tokenizer_files, load_tokenizer
from runyard_trainer.dataset_writer import Files, list_files, tokenizer_source, total_bytes, write_dataset
from runyard_trainer.estimate import estimate_run
from runyard_trainer.judge import build_prompts
from runyard_trainer.learnable import check_batch, check_rate, check_targets
from runyard_trainer.models.config import (
    check_enough_data,
    check_model,
    check_vocabulary,
    classes_of,
    count_positions,
    has_token_types,
)
from runyard_trainer.preview import Preview, show_rows
from runyard_trainer.row_samples import read_samples
from runyard_trainer.storage.base import Location, NotFound, PreconditionFailed
from runyard_trainer.storage.folder import FolderStore
from runyard_trainer.storage.open import open_store
from runyard_trainer.storage.probe import probe
from runyard_trainer.tasks import FrozenTasks, build_tasks

_FORMAT = 6
"""Of what lies under a key: raised when the same text would give other shards."""

log = logging.getLogger(__name__)


def prepare(recipe: Recipe, context: RunContext) -> PodReport:
    """Prepare a run, and say what was found.

    Raises:
        UserError: for all that a person can mend.
        StorageUnavailable: the store does not answer.
    """
    output = open_store(recipe.output.uri, recipe.storage, "output.uri")
    check_apart(recipe)
    probe(output, recipe.storage.fencing)
    claim_output(output, recipe, context)
    config = check_model(recipe)
    check_rate(recipe)
    if recipe.evaluation.judge is not None:
        from runyard_trainer.services.chat_completions import check_judge  # deferred: few runs have a judge

        check_judge(recipe.evaluation.judge, context.judge_api_key)
    if recipe.tracking.mlflow is not None:
        from runyard_trainer.tracking.mlflow import check_mlflow  # likewise

        check_mlflow(recipe.tracking.mlflow, context.mlflow_credentials)
    files = list_files(recipe)
    log.info("found %d files, %.1f MB", sum(map(len, files.values())), sum(map(total_bytes, files.values())) / 1e6)

    location = dataset_location(output, context.namespace, compute_key(recipe, files))
    try:
        manifest = (location / "dataset.json").get().data
        log.info("already prepared: %s", location)
    except NotFound:
        with TemporaryDirectory(dir=context.scratch_dir, prefix="prepare-") as scratch:
            manifest = write_dataset(location, recipe, files, Path(scratch))
    digest = hashlib.sha256(manifest).hexdigest()
    with TemporaryDirectory(dir=context.scratch_dir, prefix="prepared-") as cache:
        prepared = open_dataset(location / "dataset.json", Path(cache), digest)
        check_vocabulary(config, prepared.info.base_vocab_size, recipe)
        check_enough_data(prepared, recipe)
        check_targets(prepared, recipe)
        check_batch(recipe, count_prepared_epoch(prepared, recipe))
        resolved = resolve(prepared, recipe)
        estimate = estimate_prepared(prepared, recipe, config)
        tasks, prompts = freeze_questions(prepared, recipe, config, Path(cache))
        shown = Preview(
            objective=recipe.objective,
            mode=recipe.mode,
            is_sample=False,
            streams={name: info.model_copy(update={"shards": []}) for name, info in prepared.info.streams.items()},
            rows=show_rows(recipe, read_samples(recipe, files), prepared, Path(cache)),
            estimate=estimate,
        )
    if recipe.tracking.mlflow is not None:
        from runyard_trainer.tracking.mlflow import schedule_run  # likewise

        schedule_run(recipe.tracking.mlflow, context.mlflow_credentials, context.run_uid, context.run_name)
    (output / "preview.json").put(shown.to_json().encode())
    labels = order_labels(prepared.info.labels, config)
    record = Resolved(
        dataset=(location / "dataset.json").uri,
        sha256=digest,
        resolved=resolved,
        labels=labels,
        tasks=tasks,
        prompts=prompts,
    )
    (output / "resolved.json").put(record.to_json().encode())
    return build_report(record, prepared.info, estimate)


# --------------------------------------------------------------------------------------------------------------- output


def check_apart(recipe: Recipe) -> None:
    """Refuse an output that lies among the text, or holds the model: a run would read, or overwrite, what it writes."""
    output = recipe.output.uri.rstrip("/") + "/"
    inputs = {f"data.train[{i}].uri": source.uri for i, source in enumerate(recipe.data.train)}
    if recipe.data.replay is not None:
        replayed = recipe.data.replay.sources or []
        inputs |= {f"data.replay.sources[{i}].uri": source.uri for i, source in enumerate(replayed)}
    if recipe.data.validation.sources is not None:
        held_out = recipe.data.validation.sources
        inputs |= {f"data.validation.sources[{i}].uri": source.uri for i, source in enumerate(held_out)}
    inputs |= {f"evaluation.general[{i}].uri": source.uri for i, source in enumerate(recipe.evaluation.general)}
    if recipe.data.select is not None:
        for name, sources in recipe.data.select.compared.items():
            inputs |= {f"data.select.{name}[{i}].uri": source.uri for i, source in enumerate(sources)}
    for i, task in enumerate(recipe.evaluation.tasks):
        inputs[f"evaluation.tasks[{i}].test.uri"] = task.test.uri
        if task.shots is not None:
            inputs[f"evaluation.tasks[{i}].shots.uri"] = task.shots.uri
    if recipe.evaluation.judge is not None:
        inputs["evaluation.judge.prompts.uri"] = recipe.evaluation.judge.prompts.uri
    for field, uri in inputs.items():
        if output.startswith(uri.rstrip("/") + "/"):
            raise UserError(f"output.uri {recipe.output.uri} lies within {field} {uri}: write elsewhere")
    if recipe.model.uri is not None and (recipe.model.uri.rstrip("/") + "/").startswith(output):
        raise UserError(f"model.uri {recipe.model.uri} lies within output.uri {recipe.output.uri}: write elsewhere")


def claim_output(output: Location, recipe: Recipe, context: RunContext) -> None:
    """Write run.json, or find that it is ours.

    Raises:
        UserError: OUTPUT_TAKEN where it is another run's and the recipe does not take it over.
    """
    claim = output / "run.json"
    owner = {"uid": context.run_uid, "namespace": context.namespace, "name": context.run_name}
    ours = json.dumps(owner).encode()
    is_fenced = recipe.storage.fencing == "conditional-writes"
    try:
        found = claim.get()
    except NotFound:
        try:
            claim.put(ours, if_none_match=is_fenced)
        except PreconditionFailed:  # another run claimed it just now: see whose it is
            claim_output(output, recipe, context)
        return
    if _owner_of(found.data).get("uid") == context.run_uid:
        return
    if not recipe.output.take_over:
        theirs = _owner_of(found.data)
        raise UserError(
            f"output.uri {output} belongs to run {theirs.get('namespace')}/{theirs.get('name')} "
            f"(uid {theirs.get('uid')}): write elsewhere, or go on from what it has left with output.takeOver: true",
            ExitCode.OUTPUT_TAKEN,
        )
    claim.put(ours, if_match=found.etag if is_fenced else None)


def _owner_of(data: bytes) -> dict[str, str]:
    try:
        owner = json.loads(data)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


# ----------------------------------------------------------------------------------------------------------------- key


def compute_key(recipe: Recipe, files: Files) -> str:
    """Names everything that the tokens depend on: the same key, the same shards."""
    inputs = {
        "format": _FORMAT,
        "files": {
            stream: [
                [
                    file.location.uri,
                    file.etag,
                    file.size_bytes,
                    file.format,
                    file.record_format,
                    file.source,
                    file.columns.model_dump(),
                ]
                for file in listed
            ]
            for stream, listed in files.items()
        },
        "objective": recipe.objective,
        "records": kind_of(recipe, "train").depends_on(recipe),
        "validation": recipe.data.validation.held_out_fraction,
        "screening": recipe.data.model_dump(mode="json", include={"deduplicate", "decontaminate", "invalid_rows"}),
        "select": _describe_select(recipe),
        "tokenizer": _describe_tokenizer(recipe),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def _describe_select(recipe: Recipe) -> object:
    """What is asked for; the texts to compare with are among the files."""
    select = recipe.data.select
    if select is None:
        return None
    settings = select.model_dump(mode="json", include={"method", "fraction", "sampling"})
    return settings | {
        "noiseClip": select.resolved_noise_clip,
        "seed": recipe.training.seed if select.sampling == "soft" else None,
    }


def _describe_tokenizer(recipe: Recipe) -> object:
    scratch = recipe.model.scratch
    if scratch is not None and scratch.tokenizer.train is not None:
        training = scratch.tokenizer.train.model_dump(mode="json")
        if recipe.objective in MASKED_OBJECTIVES:
            training["hasTypes"] = has_token_types(check_model(recipe))
        return training
    files = {name: info.etag for name, info in list_tokenizer_files(tokenizer_source(recipe)[0]).items()}
    extension = recipe.model.extend_vocabulary
    return files if extension is None else {"files": files, **extension.model_dump()}


def dataset_location(output: Location, namespace: str, key: str) -> Location:
    """Where the runs of a namespace share prepared data: at the bucket's root, or beside a file:// output."""
    root = output.parent if isinstance(output.store, FolderStore) else Location(output.store, "")
    return root / ".runyard" / namespace / "prepared" / key


# ------------------------------------------------------------------------------------------------------------- outcome


def resolve(dataset: Dataset, recipe: Recipe) -> dict[str, str]:
    """Each value that was automatic, as text."""
    epoch = count_prepared_epoch(dataset, recipe)
    batch = resolve_batch(recipe, epoch)
    validation, select = recipe.data.validation, recipe.data.select
    is_split_default = validation.fraction is None and validation.sources is None
    is_clip_default = select is not None and select.uses_reference and select.noise_clip is None
    return {
        **({"validationFraction": f"{validation.held_out_fraction:g}"} if is_split_default else {}),
        **({"noiseClip": f"{DEFAULT_NOISE_CLIP:g}"} if is_clip_default else {}),
        "learningRate": f"{recipe.learning_rate:g}",
        "batchSequences": str(batch.sequences),
        "batchTokens": str(batch.sequences * recipe.training.sequence_length),
        **({} if batch.reason is None else {"batchReason": batch.reason}),
        "totalSteps": str(count_steps(recipe, batch.sequences, epoch)),
        "vocabSize": str(dataset.info.vocab_size),
        **resolve_vocabulary(dataset.info, recipe),
        **resolve_method(recipe),
    }


def order_labels(labels: list[str], config: PretrainedConfig) -> list[str]:
    """The data's classes, in the order of the model's own where it is trained on the same ones already."""
    known = classes_of(config)
    if sorted(known) != sorted(labels):
        return labels
    log.info("the model tells the same %d classes apart: it goes on with its head", len(labels))
    return known


def resolve_vocabulary(info: DatasetInfo, recipe: Recipe) -> dict[str, str]:
    """Likewise, of what was added to the model's own tokenizer."""
    if recipe.model.extend_vocabulary is None:
        return {}
    return {"newTokens": str(len(info.new_tokens)), "tokenizer": info.tokenizer_digest}


def resolve_method(recipe: Recipe) -> dict[str, str]:
    """Likewise, of the adapter and of preference."""
    resolved = {}
    if recipe.method.is_adapter:
        resolved = {
            "rank": str(recipe.method.resolved_rank),
            "alpha": f"{recipe.method.resolved_alpha:g}",
            "dropout": f"{recipe.adapter_dropout:g}",
        }
    return resolved | ({"beta": f"{recipe.beta:g}"} if recipe.objective == "preference" else {})


Digests = tuple[str | None, str | None]


def freeze_questions(prepared: Dataset, recipe: Recipe, config: PretrainedConfig, scratch_dir: Path) -> Digests:
    """Leave tasks, and prompts for a judge, beside the prepared data; the sha256 of each, None where there is none."""
    if not recipe.evaluation.tasks and recipe.evaluation.judge is None:
        return None, None
    folder = scratch_dir / "tokenizer"
    folder.mkdir()
    location, pieces = prepared.location, tuple(map(tuple, prepared.info.new_tokens))
    tokenizer = replace(load_tokenizer(location / "tokenizer", folder, "the prepared tokenizer"), pieces=pieces)
    max_tokens = count_positions(config) or recipe.training.sequence_length
    tasks = prompts = None
    if recipe.evaluation.tasks:
        built = build_tasks(recipe, tokenizer, max_tokens)
        tell_tasks(built)
        tasks = freeze(location, "tasks", built)
    if recipe.evaluation.judge is not None:
        chosen = build_prompts(recipe, tokenizer, max_tokens)
        log.info(
            "a judge will compare answers to %d of %d prompts; %d more do not fit the model",
            *(len(chosen.prompts), chosen.records, chosen.too_long),
        )
        prompts = freeze(location, "prompts", chosen)
    return tasks, prompts


def freeze(location: Location, name: str, value: Report) -> str:
    """Put it under the sha256 of what it is."""
    data = value.to_json().encode()
    digest = hashlib.sha256(data).hexdigest()
    (location / f"{name}-{digest}.json").put(data)
    return digest


def tell_tasks(tasks: FrozenTasks) -> None:
    """What will be asked, and what is left out."""
    for task in tasks.tasks:
        log.info(
            "task %s: %d questions, %d more do not fit the model; %d shots dropped for room",
            *(task.name, len(task.items), task.too_long, task.dropped_shots),
        )


def estimate_prepared(dataset: Dataset, recipe: Recipe, config: PretrainedConfig) -> Estimate:
    """What training on the prepared data will take."""
    num_train = len(kind_of(recipe, "train").open_samples(dataset, "train", recipe))
    tokens_per_sample = min(float(recipe.training.sequence_length), dataset.info.streams["train"].tokens / num_train)
    epoch = count_prepared_epoch(dataset, recipe)
    batch = resolve_batch(recipe, epoch)
    num_steps = count_steps(recipe, batch.sequences, epoch)
    return estimate_run(recipe, config, dataset.info.vocab_size, num_steps, batch, tokens_per_sample)


def count_prepared_epoch(dataset: Dataset, recipe: Recipe) -> Fraction:
    """Samples of an epoch, each as often as it weighs."""
    samples = kind_of(recipe, "train").open_samples(dataset, "train", recipe)
    return count_epoch(parts_of(recipe, dataset, samples))


def build_report(record: Resolved, info: DatasetInfo, estimate: Estimate) -> PodReport:
    """The pod's last words."""
    train, validation = info.streams["train"], info.streams.get("validation", StreamInfo())
    aside = "".join(f", {words}" for words in tell_left_out(train))
    message = (
        f"{train.documents:,} documents with {train.tokens:,} tokens to train on, {validation.documents:,} held out"
        f"{aside}; {record.resolved['totalSteps']} steps of {record.resolved['batchSequences']} samples"
    )
    log.info("%s", message)
    return PodReport(
        reason="Completed",
        message=message,
        resolved=record.resolved,
        data=DataSummary(
            manifest=record.dataset,
            documents=train.documents,
            tokens=train.tokens,
            validation_documents=validation.documents,
            dropped=train.dropped + sum(train.left_out.values()),
            truncated=train.truncated,
            domain_fertility=validation.fertility,
            general_fertility=info.streams.get("general", StreamInfo()).fertility,
            estimate=estimate,
        ),
    )
