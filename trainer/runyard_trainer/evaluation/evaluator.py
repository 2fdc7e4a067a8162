"""Measure a run's model while it is watched: losses on held-out data, tasks, answers to the judge's prompts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from runyard_trainer.context import RunContext, World
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Losses
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.evaluation.evaluate import HeldOutData, evaluate_model, open_held_out
from runyard_trainer.evaluation.judge.judging import AnswerPair, Judging
from runyard_trainer.evaluation.judge.prompts import FrozenPrompts
from runyard_trainer.evaluation.task_answers import answer_prompts, measure_tasks, read_prompts, read_tasks
from runyard_trainer.evaluation.tasks.items import FrozenTasks
from runyard_trainer.objectives.base import Objective
from runyard_trainer.training.observed_run import ObservedRun
from runyard_trainer.training.sharded_model import ShardedModule
from runyard_trainer.training.state import TrainState
from runyard_trainer.training.step import Learner
from runyard_trainer.training.training_data import TrainingData


@dataclass(frozen=True)
class Evaluator:
    """A model and everything that it is measured on. All ranks call each method together and get the same."""

    module: ShardedModule
    objective: Objective
    dataset: Dataset
    tasks: FrozenTasks
    prompts: FrozenPrompts
    recipe: Recipe
    world: World
    device: torch.device
    micro_batch: int
    """Samples in a forward pass of one rank."""
    run: ObservedRun

    @cached_property
    def held_out(self) -> HeldOutData:
        """The held-out streams, opened when they are first read."""
        return open_held_out(self.dataset, self.objective, self.recipe)

    def measure_losses(self, step: int) -> Losses:
        """Measure the losses on the held-out streams, after so many steps."""
        with self.run.stage("evaluating", f"the evaluation after {step} steps"):
            return evaluate_model(self.module, self.held_out, self.world, self.micro_batch, self.device)

    def add_tasks(self, losses: Losses, step: int) -> Losses:
        """Return the losses with the metrics of the tasks, where the recipe has tasks."""
        if not self.tasks.tasks:
            return losses
        with self.run.stage("evaluating", f"the tasks after {step} steps"):
            metrics = measure_tasks(self.module, self.tasks, self.dataset, self.world, self.device)
        return losses.model_copy(update={"tasks": metrics})

    def write_answers(self, step: int) -> list[str]:
        """Have the model answer the judge's prompts."""
        with self.run.stage("evaluating", f"the answers for the judge after {step} steps"):
            return answer_prompts(self.module, self.prompts, self.dataset, self.world, self.device)


def open_evaluator(
    learner: Learner, data: TrainingData, recipe: Recipe, micro_batch: int, run: ObservedRun
) -> Evaluator:
    """Return the evaluator of the model that is trained, with the tasks and prompts that prepare has frozen."""
    return Evaluator(
        module=learner.module,
        objective=data.objective,
        dataset=data.dataset,
        tasks=read_tasks(data.dataset, data.resolved.tasks),
        prompts=read_prompts(data.dataset, data.resolved.prompts),
        recipe=recipe,
        world=learner.world,
        device=learner.device,
        micro_batch=micro_batch,
        run=run,
    )


def begin_judging(
    evaluator: Evaluator, state: TrainState, prompts_sha256: str | None, context: RunContext
) -> Judging | None:
    """Have the exported model answer, and rank 0 ask the judge in a thread; None without prompts and on other ranks."""
    prompts = evaluator.prompts.prompts
    if not prompts:
        return None
    judge = evaluator.recipe.evaluation.judge
    assert judge is not None, "there are prompts"
    before, missing = state.base_answers, None
    if before is None or state.prompts != prompts_sha256:
        missing = "the model as it came had not answered these prompts when the run began"
        before = [""] * len(prompts)
    after = evaluator.write_answers(state.step) if missing is None else before
    if context.world.rank > 0:
        return None
    texts = [prompt.text for prompt in prompts]
    pairs = [AnswerPair(*each) for each in zip(texts, before, after, strict=True)]
    return Judging(judge, context.judge_api_key, pairs, missing)
