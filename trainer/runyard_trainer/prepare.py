"""From text in storage to token shards in storage, on CPUs, before a GPU is spent.

    probe and claim the output ─> check the model ─> list the text ─> key of what was found
      ─> prepared already? ── no ──> tokenizer ─> documents ─> shards ─> dataset.json, last
      ─> resolved.json beside the output, last of all

Everything a person can get wrong in a recipe shows here. Doing it again is quick and changes nothing.
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
from runyard_trainer.data.filters.screening import tell_left_out
from runyard_trainer.evaluation.questions import freeze_questions
from runyard_trainer.models.config import check_model, check_vocabulary
from runyard_trainer.preparation.dataset_writer import list_files, total_bytes, write_dataset
from runyard_trainer.preparation.first_rows import read_samples
from runyard_trainer.preparation.key import compute_key, dataset_location
from runyard_trainer.preparation.learnable import check_batch, check_enough_data, check_rate, check_targets
from runyard_trainer.preparation.output import check_apart, claim_output
from runyard_trainer.preparation.preview import Preview, show_rows
from runyard_trainer.preparation.resolve import count_prepared_epoch, estimate_prepared, order_labels, resolve
from runyard_trainer.storage.base import NotFound
from runyard_trainer.storage.open import open_store
from runyard_trainer.storage.probe import probe

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


# ----------------------------------------------------------------------------------------------------------------- key


# ------------------------------------------------------------------------------------------------------------- outcome


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
