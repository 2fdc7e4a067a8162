"""Train a run from top to bottom: what one rank does from its start to the finished export.

    join the others ─> claim the head ─> open the data ─> load and shard the model ─> restore, or measure it before
      ─> every step: read, forward and backward, clip, AdamW, report; every so many: measure; checkpoint
      ─> last checkpoint ─> measure again ─> choose the best of what was measured ─> export ─> finish the head

Everything that must outlive an attempt is in `TrainState`, the weights, the optimizer and the metrics; the order of the
samples, the learning rate and dropout are functions of the step. All ranks run this alike: what one decides is what
all decide, by the same values or by a sum over the ranks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch

from runyard_trainer.checkpoints.checkpointer import Checkpointer
from runyard_trainer.checkpoints.head import claim_head, finish_head
from runyard_trainer.context import RunContext
from runyard_trainer.contract.exits import Interrupted
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import PodReport, Result
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.evaluation.evaluator import Evaluator, begin_judging, open_evaluator
from runyard_trainer.evaluation.source_model import measure_source_model
from runyard_trainer.export.export import export_run
from runyard_trainer.export.report import TrainedRun
from runyard_trainer.objectives.base import Objective
from runyard_trainer.ranks.distributed import joined_ranks, select_device
from runyard_trainer.storage.open import open_store
from runyard_trainer.storage.patient import be_patient
from runyard_trainer.tracking.tracker import NewsSource, Tracker
from runyard_trainer.training.batches import Batches
from runyard_trainer.training.best_model import (
    Candidate,
    build_criterion,
    check_forgetting,
    choose_best,
    find_best_step,
    should_stop_early,
)
from runyard_trainer.training.micro_batch import resolve_micro_batch
from runyard_trainer.training.monitor import StopRequest
from runyard_trainer.training.observed_run import ObservedRun, observe_run
from runyard_trainer.training.optimizer import build_optimizer, learning_rate, set_learning_rate
from runyard_trainer.training.self_replay import write_replay
from runyard_trainer.training.sharded_model import ShardedModule, load_model, resolve_precision
from runyard_trainer.training.state import TrainState, count_non_finite, name_parts, name_weights
from runyard_trainer.training.step import Learner, take_step
from runyard_trainer.training.training_data import TrainingData, open_training_data

log = logging.getLogger(__name__)


def _exit(report: PodReport) -> None:
    os._exit(report.exit_code)


def train(recipe: Recipe, context: RunContext, end_process: Callable[[PodReport], None] = _exit) -> Result:
    """Train on what is prepared at the recipe's output, from where the last attempt has left it.

    Args:
        recipe: the run's recipe.
        context: which rank this is, of which run.
        end_process: ends a process that hangs, from another thread, with a report of why.

    Raises:
        Interrupted: stopped by a signal, by a lost peer or by a newer attempt.
        UserError: a person has to mend the recipe, the data or the cluster.
        StorageUnavailable: the store does not answer.
    """
    training, world = recipe.training, context.world
    output = be_patient(open_store(recipe.output.uri, recipe.storage, "output.uri"))
    device = select_device(world)
    torch.use_deterministic_algorithms(training.deterministic and device.type == "cuda")
    stop = StopRequest()
    with ExitStack() as stack:
        stack.enter_context(joined_ranks(context, device))
        tracker = stack.enter_context(Tracker(recipe, context))
        stop.install()  # not before: a rank that still waits for its peers has nothing to save
        head, result = claim_head(output, recipe, context)
        if result is not None:
            log.info("the run is finished already: %s", result.uri)
            return result

        data = open_training_data(recipe, context, output)
        run = stack.enter_context(observe_run(data.total_steps, output, context, end_process))
        load = partial(load_watched, recipe, context, device, run)
        module = load(data.objective, data.dataset.info)
        optimizer = build_optimizer(module, training.optimizer)
        learner = Learner(module, data.objective, optimizer, training, data.order.batch, world, device)
        state = TrainState()
        saved = name_parts(module, optimizer, state, run.monitor)
        checkpointer = Checkpointer(output, head, world, context.scratch_dir, recipe.checkpoint)
        if recipe.data.replay is not None and recipe.data.replay.source == "self":
            with run.stage("writing", "writing text to replay"):
                eos_token_id = data.dataset.info.eos_token_id
                replay = write_replay(module, recipe, output, data.order.num_replay, eos_token_id, context, device)
            data = replace(data, streams={**data.streams, "replay": replay})

        checkpointer.restore(saved)
        run.monitor.set_checkpoint(checkpointer.committed)
        resolve_micro_batch(state, learner, data.streams["train"].filler)
        settings = describe_settings(recipe, data, state, learner)
        run.monitor.set_resolved(settings)
        tracker.follow(NewsSource(recipe, run.monitor, state, data.resolved.resolved, settings))
        report_commit(checkpointer, run, tracker)

        evaluator = open_evaluator(learner, data, recipe, state.micro_batch, run)
        if recipe.evaluation.before and state.step == 0:
            state.note_before(*measure_source_model(evaluator, load), data.resolved.prompts)
        criterion = build_criterion(recipe, data.objective.best_by, state.before)

        with (
            run.stage("training"),
            Batches(data.streams, data.objective, data.order, world, state.micro_batch) as batches,
        ):
            module.train()
            while state.step < data.total_steps and not state.is_stopped_early:
                rate = learning_rate(state.step, data.total_steps, recipe.learning_rate, training.schedule)
                set_learning_rate(optimizer, rate)
                with run.watchdog.watching(f"step {state.step + 1}"):
                    done = take_step(learner, batches.step(state.step), state.step, stop.requested)
                state.step += 1
                state.tokens += done.tokens
                count_non_finite(state, done, data.total_steps)
                run.monitor.record_step(state.step, done.loss, state.tokens, rate, done.grad_norm)
                is_best = False
                if state.is_due(recipe.evaluation.every_steps) and state.step < data.total_steps:
                    state.note_losses(evaluator.measure_losses(state.step))
                    is_best = choose_best(state.candidates, criterion).step == state.step
                    state.is_stopped_early = should_stop_early(state.candidates, criterion, training.early_stopping)
                is_last = state.step == data.total_steps or state.is_stopped_early
                is_stopping = done.is_stop_requested and not is_last
                if is_stopping or is_last or is_best or state.is_due(recipe.checkpoint.every_steps):
                    checkpointer.save(state.step, saved, state.tokens, find_best_step(state.candidates, criterion))
                checkpointer.check()
                report_commit(checkpointer, run, tracker)
                if is_stopping:
                    checkpointer.wait(context.grace_s)
                    report_commit(checkpointer, run, tracker)
                    raise Interrupted(f"stopped by a signal; step {state.step} is saved")
            checkpointer.wait()
            run.monitor.set_checkpoint(checkpointer.committed)

        if not state.is_measured:
            state.note_losses(evaluator.measure_losses(state.step))
        tracker.update(state.step)
        best = choose_best(state.candidates, criterion)
        warning = check_forgetting(best, criterion, recipe)
        if best.step != state.step:
            log.info("exporting the model of step %d, the best that was measured", best.step)
            checkpointer.restore_step(best.step, name_weights(module))
        exported = replace(best, losses=evaluator.add_tasks(best.losses, state.step))
        judging = begin_judging(evaluator, state, data.resolved.prompts, context)

        with run.stage("exporting"):
            page = tracker.wait_for_page()
            trained = summarize_run(data, state, settings, evaluator, exported, warning, page)
            result = export_run(
                module.model, trained, recipe, context, data.dataset, output, judging, module.generation
            )
            finish_head(head, result, world)
        run.monitor.set_stage("finished")
        return result


def load_watched(
    recipe: Recipe,
    context: RunContext,
    device: torch.device,
    run: ObservedRun,
    objective: Objective,
    info: DatasetInfo,
) -> ShardedModule:
    """Load the model for a dataset; each of its forward passes is a beat of the watchdog."""
    module = load_model(recipe, objective, info, context, device)
    module.model.register_forward_hook(lambda *_: run.watchdog.beat())
    return module


def describe_settings(recipe: Recipe, data: TrainingData, state: TrainState, learner: Learner) -> dict[str, str]:
    """Return each automatic value as it was resolved, by the name that status has for it."""
    return {
        **data.resolved.resolved,
        "precision": resolve_precision(recipe.training, learner.device),
        "microBatch": str(state.micro_batch),
        "learningRate": f"{recipe.learning_rate:g}",
        "world": f"{learner.world.size} x {learner.device.type}",
    }


def report_commit(checkpointer: Checkpointer, run: ObservedRun, tracker: Tracker) -> None:
    """Report the newest committed checkpoint to whoever watches the run."""
    committed = checkpointer.committed
    run.monitor.set_checkpoint(committed)
    tracker.update(committed.step if committed is not None else -1)


def summarize_run(
    data: TrainingData,
    state: TrainState,
    settings: Mapping[str, str],
    evaluator: Evaluator,
    exported: Candidate,
    warning: str | None,
    page: str | None,
) -> TrainedRun:
    """Return what the export is told of the run.

    Args:
        data: what the run has trained on.
        state: at its end.
        settings: each automatic value as it was resolved.
        evaluator: of the model that was trained.
        exported: the model that is exported, its tasks measured.
        warning: what is not as the recipe asks.
        page: of the run, on a tracking server.
    """
    return TrainedRun(
        before=state.losses_before,
        after=exported.losses,
        tasks=evaluator.tasks,
        tasks_sha256=data.resolved.tasks,
        prompts_sha256=data.resolved.prompts,
        steps=state.step,
        exported_step=exported.step,
        candidates=state.candidates,
        warning=warning,
        tokens=state.tokens,
        precision=settings["precision"],
        metrics_csv=evaluator.run.monitor.metrics_csv(),
        resolved=settings,
        tracking_url=page,
    )
