"""What transformers loses on the same batches: its own model, loss, optimizer, schedule and clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.models.config import check_model
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.training.optimizer import build_optimizer
from runyard_trainer.training.sharded_model import read_model
from torch.optim.lr_scheduler import LambdaLR
from transformers.optimization import get_scheduler


def trainer_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return what `TrainingArguments` of any Trainer take over from a recipe, on a CPU."""
    training = recipe.training
    return {
        "use_cpu": True,
        "max_steps": training.steps or 0,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": training.schedule.min_ratio},
        "warmup_steps": training.schedule.warmup,
        "weight_decay": training.optimizer.weight_decay,
        "adam_beta1": training.optimizer.beta1,
        "adam_beta2": training.optimizer.beta2,
        "max_grad_norm": training.optimizer.max_grad_norm,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def count_from_1(schedule: LambdaLR, warmup_steps: int) -> LambdaLR:
    """Drop the first step of their warm-up, whose rate is 0: each other one comes a step earlier."""
    (share_of,) = set(schedule.lr_lambdas)
    return LambdaLR(schedule.optimizer, lambda step: share_of(step + 1 if step < warmup_steps else step))


def build_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, num_steps: int) -> LambdaLR:
    """Build transformers' schedule for the recipe's settings."""
    settings = recipe.training.schedule
    warmup_steps = math.ceil(settings.warmup * num_steps)
    theirs = get_scheduler(
        "cosine_with_min_lr",
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=num_steps,
        scheduler_specific_kwargs={"min_lr_rate": settings.min_ratio},
    )
    return count_from_1(theirs, warmup_steps)


class ComparedTrainer:
    """Mixin for any Trainer: it takes rows as they come, warms up as ours does, and remembers the loss of each step."""

    losses: list[float]

    def train_for_losses(self) -> list[float]:
        self.losses = []
        cast(Any, self).train()
        return self.losses

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        trainer = cast(Any, super())
        theirs = trainer.create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = count_from_1(theirs, cast(Any, self).args.get_warmup_steps(num_training_steps))
        return self.lr_scheduler

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(cast(Any, self).train_dataset)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss: Any = cast(Any, super()).compute_loss(*args, **kwargs)
        self.losses.append(float(loss.detach()))
        return loss


def pad_inputs(samples: list[dict[str, Any]], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Pad token ids and, where the tokenizer has them, token types, as transformers does."""
    names = [name for name in ("input_ids", "token_type_ids") if name in tokenizer.model_input_names]
    return dict(
        tokenizer.pad({name: [sample[name].tolist() for sample in samples] for name in names}, return_tensors="pt")
    )


def pad_classes(samples: list[dict[str, Any]], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Make a batch of classified texts, as transformers has it."""
    labels = torch.stack([torch.from_numpy(sample["labels"]) for sample in samples])
    return {**pad_inputs(samples, tokenizer), "labels": labels.float() if labels.ndim == 2 else labels}


def lose_at_once(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the loss that the model itself computes of a batch with labels, in one piece."""
    loss: torch.Tensor = model(**batch).loss
    return loss


def train_reference(
    recipe: Recipe,
    info: DatasetInfo,
    batches: Sequence[Any],
    lose: Callable[[Any, Any], torch.Tensor] = lose_at_once,
) -> list[float]:
    """Return the loss of each step; `lose` computes it from the model and a batch."""
    torch.set_num_threads(1)
    training = recipe.training
    objective = build_objective(recipe, info)
    config = check_model(recipe)
    objective.configure(config)
    model: Any = read_model(Path(str(recipe.model.uri).removeprefix("file://")), config, objective, recipe)
    model.train()
    optimizer = build_optimizer(model, training.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate
    schedule = build_schedule(recipe, optimizer, len(batches))
    losses = []
    for batch in batches:
        loss = lose(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.optimizer.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses
