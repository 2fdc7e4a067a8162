"""A run from top to bottom: what one rank does from its start to the finished export.

    join the others ─> claim the head ─> load and shard the model ─> restore, or measure it as it came
      ─> every step: read, forward and backward, clip, AdamW, report; every so many: measure; checkpoint
      ─> last checkpoint ─> measure again ─> the best of what was measured ─> export ─> finish the head

Everything that must outlive an attempt is in `TrainState`, the weights, the optimizer and the metrics; the order of the
samples, the learning rate and dropout are functions of the step. All ranks go through here alike: what one decides by
itself is what all would decide, or comes out of a sum over all.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

import torch

from runyard_trainer.checkpoints.checkpointer import Checkpointer
from runyard_trainer.checkpoints.head import Head
from runyard_trainer.context import RunContext, World
from runyard_trainer.contract.exits import Interrupted
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Losses, PodReport, Result
from runyard_trainer.data.dataset.dataset import DatasetInfo, open_dataset, read_resolved
from runyard_trainer.data.order import Order, Part, count_epoch, count_replayed
from runyard_trainer.data.records.base import Samples
from runyard_trainer.data.records.kinds import kind_of, parts_of
from runyard_trainer.data.run_length import count_steps, read_batch
from runyard_trainer.evaluation.base_tokens import Subject, as_it_came, restate
from runyard_trainer.evaluation.evaluate import evaluate_model
from runyard_trainer.evaluation.judge.judging import Judging, Pair
from runyard_trainer.evaluation.judge.prompts import FrozenPrompts
from runyard_trainer.evaluation.task_answers import answer_prompts, measure_tasks, read_prompts, read_tasks
from runyard_trainer.export.export import export_run
from runyard_trainer.export.report import TrainedRun
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.ranks.distributed import joined_ranks, run_on_rank_0, select_device
from runyard_trainer.storage.base import Location
from runyard_trainer.storage.open import open_store
from runyard_trainer.storage.patient import be_patient
from runyard_trainer.tracking.tracker import News, Tracker, build_params
from runyard_trainer.training.batches import Batches
from runyard_trainer.training.best_model import (
    build_criterion,
    check_forgetting,
    choose_best,
    find_best_step,
    is_hopeless,
)
from runyard_trainer.training.micro_batch import choose_micro_batch
from runyard_trainer.training.monitor import Monitor, StopRequest
from runyard_trainer.training.optimizer import build_optimizer, learning_rate, set_learning_rate
from runyard_trainer.training.self_replay import write_replay
from runyard_trainer.training.sharded_model import ShardedModule, load_model, resolve_precision
from runyard_trainer.training.state import ShardedState, TrainState, Weights, count_non_finite
from runyard_trainer.training.step import Learner, take_step
from runyard_trainer.training.watchdog import Watchdog, handle_stall

log = logging.getLogger(__name__)


def _exit(report: PodReport) -> None:
    os._exit(report.exit_code)


def train(recipe: Recipe, context: RunContext, end_process: Callable[[PodReport], None] = _exit) -> Result:
    """Train what is prepared at the recipe's output, from where the last attempt has left it.

    Args:
        recipe: what to learn.
        context: which rank this is, of which run.
        end_process: ends a process that hangs, from another thread, with a report of why.

    Raises:
        Interrupted: stopped by a signal, by a lost peer or by a newer attempt.
        UserError: for all that a person can mend.
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

        resolved = run_on_rank_0(lambda: read_resolved(output), world)
        prepared = be_patient(open_store(resolved.dataset, recipe.storage, "output.uri"))
        dataset = open_dataset(prepared, context.scratch_dir / "shards", resolved.sha256, resolved.labels)
        streams = {name: kind_of(recipe, name).open_samples(dataset, name, recipe) for name in ("train", "replay")}
        parts = parts_of(recipe, dataset, streams["train"])
        batch = read_batch(recipe, resolved.resolved)
        total_steps = count_steps(recipe, batch, count_epoch(parts))
        order = build_order(recipe, streams, parts, batch, total_steps)
        monitor = Monitor(context.attempt, total_steps, is_rank_0=world.rank == 0)
        stack.callback(monitor.close)
        if world.rank == 0:
            serve_progress(monitor, context)
        act = partial(handle_stall, output=output, context=context, tell=monitor.set_stalled, end_process=end_process)
        watchdog = Watchdog(context.stall_s, act, on_recovery=partial(monitor.set_stalled, None))
        stack.callback(watchdog.close)

        objective = build_objective(recipe, dataset.info)

        def load(info: DatasetInfo) -> ShardedModule:
            loaded = load_model(recipe, build_objective(recipe, info), info, context, device)
            loaded.model.register_forward_hook(lambda *_: watchdog.beat())
            return loaded

        module = load(dataset.info)
        optimizer = build_optimizer(module, training.optimizer)
        learner = Learner(module, objective, optimizer, training, order.batch, world, device)
        state = TrainState()
        everything = {"sharded": ShardedState(module, optimizer), "train": state, "monitor": monitor}
        checkpointer = Checkpointer(
            output,
            head,
            world,
            context.scratch_dir,
            keep_last=recipe.checkpoint.keep_last,
            keep_every_steps=recipe.checkpoint.keep_every_steps,
        )
        if recipe.data.replay is not None and recipe.data.replay.source == "self":
            monitor.set_stage("writing")
            with watchdog.watching("writing text to replay"):
                streams["replay"] = write_replay(
                    module, recipe, output, order.num_replay, dataset.info.eos_token_id, context, device
                )
        checkpointer.restore(everything)
        monitor.set_checkpoint(checkpointer.committed)
        if state.world_size != world.size:
            state.micro_batch = choose_micro_batch(learner, streams["train"].filler)
            state.world_size = world.size
        precision = resolve_precision(training, device)
        settings = {
            **resolved.resolved,
            "precision": precision,
            "microBatch": str(state.micro_batch),
            "learningRate": f"{recipe.learning_rate:g}",
            "world": f"{world.size} x {device.type}",
        }
        monitor.set_resolved(settings)

        def tell(up_to_step: int) -> None:
            if tracker.is_news(up_to_step, len(state.measured)):
                tracker.tell(gather_news(up_to_step, monitor, state, recipe, resolved.resolved, settings))

        def tell_committed() -> None:
            monitor.set_checkpoint(checkpointer.committed)
            tell(checkpointer.committed.step if checkpointer.committed else -1)

        tell_committed()

        tasks, prompts = read_tasks(dataset, resolved.tasks), read_prompts(dataset, resolved.prompts)
        learned = Subject(module, dataset, tasks, prompts)

        def measure(subject: Subject) -> Losses:
            monitor.set_stage("evaluating")
            with watchdog.watching(f"the evaluation after {state.step} steps"):
                return evaluate_model(subject.module, subject.dataset, recipe, world, state.micro_batch, device)

        def with_tasks(losses: Losses, subject: Subject) -> Losses:
            if not tasks.tasks:
                return losses
            monitor.set_stage("evaluating")
            with watchdog.watching(f"the tasks after {state.step} steps"):
                asked = measure_tasks(subject.module, subject.tasks, subject.dataset, world, device)
            return losses.model_copy(update={"tasks": asked})

        def answer(subject: Subject) -> list[str]:
            monitor.set_stage("evaluating")
            with watchdog.watching(f"the answers for the judge after {state.step} steps"):
                return answer_prompts(subject.module, subject.prompts, subject.dataset, world, device)

        if recipe.evaluation.before and state.step == 0:
            came = as_it_came(learned, load)
            state.before = restate(with_tasks(measure(came), came), dataset.info).model_dump()
            if prompts.prompts:
                state.base_answers, state.prompts = answer(came), resolved.prompts
            del came  # it may be a model of its own
        criterion = build_criterion(recipe, objective.best_by, state.before)

        monitor.set_stage("training")
        module.train()
        batches = stack.enter_context(Batches(streams, objective, order, world, state.micro_batch))
        while state.step < total_steps and not state.is_stopped_early:
            rate = learning_rate(state.step, total_steps, recipe.learning_rate, training.schedule)
            set_learning_rate(optimizer, rate)
            with watchdog.watching(f"step {state.step + 1}"):
                done = take_step(learner, batches.step(state.step), state.step, stop.requested)
            state.step += 1
            state.tokens += done.tokens
            count_non_finite(state, done, total_steps)
            monitor.step_done(state.step, done.loss, state.tokens, rate, done.grad_norm)
            is_best = False
            if is_due(state.step, recipe.evaluation.every_steps) and state.step < total_steps:
                state.note_losses(measure(learned))
                monitor.set_stage("training")
                is_best = choose_best(state.candidates, criterion).step == state.step
                state.is_stopped_early = is_hopeless(state.candidates, criterion, training.early_stopping)
            is_last = state.step == total_steps or state.is_stopped_early
            is_stopping = done.is_stop_requested and not is_last
            if is_stopping or is_last or is_best or is_due(state.step, recipe.checkpoint.every_steps):
                checkpointer.save(state.step, everything, state.tokens, find_best_step(state.candidates, criterion))
            checkpointer.check()
            tell_committed()
            if is_stopping:
                checkpointer.wait(context.grace_s)
                tell_committed()
                raise Interrupted(f"stopped by a signal; step {state.step} is saved")
        checkpointer.wait()
        monitor.set_checkpoint(checkpointer.committed)

        if not state.measured or state.candidates[-1].step != state.step:
            state.note_losses(measure(learned))
        tell(state.step)
        best = choose_best(state.candidates, criterion)
        warning = check_forgetting(best, criterion, recipe)
        if best.step != state.step:
            log.info("exporting the model of step %d, the best that was measured", best.step)
            checkpointer.restore_step(best.step, {"sharded": Weights(module)})
        after = with_tasks(best.losses, learned)
        judging = None
        if prompts.prompts:
            judging = begin_judging(recipe, context, prompts, state, resolved.prompts, partial(answer, learned))
        monitor.set_stage("exporting")
        trained = TrainedRun(
            before=Losses(**state.before) if state.before else None,
            after=after,
            tasks=tasks,
            tasks_sha256=resolved.tasks,
            prompts_sha256=resolved.prompts,
            steps=state.step,
            exported_step=best.step,
            candidates=state.candidates,
            warning=warning,
            tokens=state.tokens,
            precision=precision,
            metrics_csv=monitor.metrics_csv(),
            resolved=settings,
            tracking_url=tracker.wait_for_page(),
        )
        result = export_run(module.model, trained, recipe, context, dataset, output, judging, module.generation)
        finish_head(head, result, world)
        monitor.set_stage("finished")
        return result


def gather_news(
    up_to_step: int,
    monitor: Monitor,
    state: TrainState,
    recipe: Recipe,
    resolved: Mapping[str, str],
    settings: Mapping[str, str],
) -> News:
    """What may be told of the run up to a step."""
    return News(
        up_to_step=up_to_step,
        metrics_csv=monitor.metrics_csv(),
        before=Losses(**state.before) if state.before else None,
        measured=tuple(state.candidates),
        params=build_params(recipe, resolved),
        tags={f"runyard.{name}": value for name, value in settings.items() if name not in resolved},
    )


def build_order(
    recipe: Recipe, streams: Mapping[str, Samples], parts: tuple[Part, ...], batch: int, total_steps: int
) -> Order:
    """The order of a run whose replay is prepared, or will be written by the model: as much as is replayed."""
    replay = recipe.data.replay
    num_replay = len(streams["replay"])
    if replay is not None and replay.source == "self":
        num_replay = max(1, count_replayed(replay.fraction, total_steps * batch))
    return Order(
        num_train=len(streams["train"]),
        num_replay=num_replay,
        replay_fraction=replay.fraction if replay is not None else 0.0,
        batch=batch,
        seed=recipe.training.seed,
        parts=parts,
    )


def begin_judging(
    recipe: Recipe,
    context: RunContext,
    prompts: FrozenPrompts,
    state: TrainState,
    sha256: str | None,
    answer: Callable[[], list[str]],
) -> Judging | None:
    """Let the exported model answer, and rank 0 ask the judge from now on; None on the others."""
    assert recipe.evaluation.judge is not None, "there are prompts"
    base, missing = state.base_answers, None
    if base is None or state.prompts != sha256:
        missing = "the model as it came had not answered these prompts when the run began"
        base = [""] * len(prompts.prompts)
    answers = answer() if missing is None else base
    if context.world.rank > 0:
        return None
    texts = [prompt.text for prompt in prompts.prompts]
    pairs = [Pair(*each) for each in zip(texts, base, answers, strict=True)]
    return Judging(recipe.evaluation.judge, context.judge_api_key, pairs, missing)


def is_due(step: int, every_steps: int | None) -> bool:
    """Whether it is one of every so many."""
    return every_steps is not None and step % every_steps == 0


def claim_head(output: Location, recipe: Recipe, context: RunContext) -> tuple[Head | None, Result | None]:
    """Rank 0's claim (None on the others), and the result where the run is finished."""
    claimed: list[Head] = []

    def claim() -> Result | None:
        head = Head.claim(
            output,
            context.run_uid,
            context.attempt,
            take_over=recipe.output.take_over,
            fencing=recipe.storage.fencing,
        )
        claimed.append(head)
        return head.result

    result = run_on_rank_0(claim, context.world)
    return (claimed[0] if claimed else None), result


def finish_head(head: Head | None, result: Result, world: World) -> None:
    """Say in head.json that the run is finished; no rank goes on before that is written."""

    def finish() -> None:
        assert head is not None, "rank 0 has claimed it"
        head.finish(result)

    run_on_rank_0(finish, world)


def serve_progress(monitor: Monitor, context: RunContext) -> None:
    """Let it be read over HTTP. Without pods, runs side by side share an address: the first one serves."""
    try:
        monitor.serve(context.pod_ip)
    except OSError as error:
        log.warning("progress is not served: %s:%s", context.pod_ip, error)
