"""Prepare a run: from text in storage to token shards in storage, on CPUs, before a GPU is spent.

    probe and claim the output ─> check the model ─> list the text ─> key of what was found
      ─> prepared already? ── no ──> tokenizer ─> documents ─> shards ─> dataset.json, last
      ─> check and resolve what is now known ─> tasks, prompts, preview.json
      ─> resolved.json beside the output, last of all

Every mistake that a recipe can hold shows here. Preparing again is quick and changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from runyard_trainer.context import RunContext
from runyard_trainer.contract.exits import Reason
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import DataSummary, Estimate, PodReport
from runyard_trainer.data.dataset.dataset import DatasetInfo, Resolved, open_dataset
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.data.filters.fates import describe_left_out
from runyard_trainer.evaluation.questions import freeze_questions
from runyard_trainer.models.config import check_model
from runyard_trainer.preparation.dataset_writer import write_dataset
from runyard_trainer.preparation.fates import DecidedStreams
from runyard_trainer.preparation.key import compute_key, dataset_location
from runyard_trainer.preparation.learnable import check_prepared, check_rate
from runyard_trainer.preparation.output import check_apart, claim_output
from runyard_trainer.preparation.preview import preview_prepared
from runyard_trainer.preparation.record_streams import Files, FileStreams, list_files, total_bytes
from runyard_trainer.preparation.resolve import estimate_prepared, order_labels, resolve
from runyard_trainer.storage.base import Location, NotFound
from runyard_trainer.storage.open import open_store
from runyard_trainer.storage.probe import probe

log = logging.getLogger(__name__)


def prepare(recipe: Recipe, context: RunContext) -> PodReport:
    """Prepare a run, and report what was found.

    Raises:
        UserError: for every mistake that a person can mend.
        StorageUnavailable: the store does not answer.
    """
    output = open_store(recipe.output.uri, recipe.storage, "output.uri")
    check_apart(recipe)
    probe(output, recipe.storage.fencing)
    claim_output(output, recipe, context)
    config = check_model(recipe)
    check_rate(recipe)
    _check_services(recipe, context)

    files = list_files(recipe)
    log.info("found %d files, %.1f MB", sum(map(len, files.values())), sum(map(total_bytes, files.values())) / 1e6)
    location = dataset_location(output, context.namespace, compute_key(recipe, files))
    manifest = location / "dataset.json"
    digest = hashlib.sha256(_find_or_write_dataset(location, recipe, files, context.scratch_dir)).hexdigest()

    with TemporaryDirectory(dir=context.scratch_dir, prefix="prepared-") as name:
        cache_dir = Path(name)
        prepared = open_dataset(manifest, cache_dir, digest)
        check_prepared(prepared, recipe, config)
        resolved = resolve(prepared, recipe)
        estimate = estimate_prepared(prepared, recipe, config)
        tasks, prompts = freeze_questions(prepared, recipe, config, cache_dir)
        preview = preview_prepared(recipe, files, prepared, estimate, cache_dir)
    _schedule_in_mlflow(recipe, context)

    labels = order_labels(prepared.info.labels, config)
    record = Resolved(
        dataset=manifest.uri, sha256=digest, resolved=resolved, labels=labels, tasks=tasks, prompts=prompts
    )
    (output / "preview.json").put(preview.to_json().encode())
    (output / "resolved.json").put(record.to_json().encode())
    return _build_report(record, prepared.info, estimate)


def _check_services(recipe: Recipe, context: RunContext) -> None:
    """Check that the servers that the recipe names answer."""
    if recipe.evaluation.judge is not None:
        from runyard_trainer.services.chat_completions import check_judge  # deferred: few runs have a judge

        check_judge(recipe.evaluation.judge, context.judge_api_key)
    if recipe.tracking.mlflow is not None:
        from runyard_trainer.tracking.mlflow import check_mlflow  # deferred: few runs are tracked

        check_mlflow(recipe.tracking.mlflow, context.mlflow_credentials)


def _find_or_write_dataset(location: Location, recipe: Recipe, files: Files, scratch_dir: Path) -> bytes:
    """Return the dataset.json at a location, after preparing the dataset if there is none yet."""
    try:
        manifest = (location / "dataset.json").get().data
    except NotFound:
        with TemporaryDirectory(dir=scratch_dir, prefix="prepare-") as scratch:
            return write_dataset(location, recipe, DecidedStreams(recipe, FileStreams(recipe, files)), Path(scratch))
    log.info("already prepared: %s", location)
    return manifest


def _schedule_in_mlflow(recipe: Recipe, context: RunContext) -> None:
    if recipe.tracking.mlflow is not None:
        from runyard_trainer.tracking.mlflow import schedule_run  # deferred: few runs are tracked

        schedule_run(recipe.tracking.mlflow, context.mlflow_credentials, context.run_uid, context.run_name)


def _build_report(record: Resolved, info: DatasetInfo, estimate: Estimate) -> PodReport:
    """Build the report that the pod ends with."""
    train, validation = info.streams["train"], info.streams.get("validation", StreamInfo())
    left_out = "".join(f", {counted}" for counted in describe_left_out(train))
    message = (
        f"{train.documents:,} documents with {train.tokens:,} tokens to train on, {validation.documents:,} held out"
        f"{left_out}; {record.resolved['totalSteps']} steps of {record.resolved['batchSequences']} samples"
    )
    log.info("%s", message)
    return PodReport(
        reason=Reason.COMPLETED,
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
