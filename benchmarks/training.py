"""Measure trained tokens per second: Runyard's loop, a bare loop around the same model, Hugging Face's Trainer.

    python benchmarks/training.py [--steps 16] [--repeats 3] [--threads 1]

The three take turns in one process, on the same packed batches, so that a machine that slows down slows all of them.
One turn is `--steps` optimizer steps after a warm-up; the result is the median over the turns. Runs on a GPU if there
is one.

    runyard   train(): order, prefetching, FSDP2, metrics, /progress, and an asynchronous checkpoint within the turn
    bare      forward, backward, clip, AdamW on the plain model; batches read beforehand; no logging, no checkpoint
    trainer   transformers.Trainer on the same, with its own defaults, no checkpoint
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
import platform
import random
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import torch
from runyard_trainer.context import RunContext, World
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset, open_dataset, read_resolved
from runyard_trainer.data.order import Order
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.models.config import check_model
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.objectives.causal_lm import CausalLM, probe
from runyard_trainer.prepare import prepare
from runyard_trainer.ranks.distributed import select_device
from runyard_trainer.storage.open import open_store
from runyard_trainer.train import train
from runyard_trainer.training.batches import Batches, StepBatches
from runyard_trainer.training.optimizer import build_optimizer
from runyard_trainer.training.sharded_model import fit_to_tokenizer, initialize_model, resolve_precision
from transformers import Trainer, TrainerCallback, TrainingArguments

WARM_UP_STEPS = 2
CPU_SIZES = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4}
CUDA_SIZES = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 16, "num_attention_heads": 16}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16, help="optimizer steps in a turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; more than the idle cores only add noise")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = select_device(World())
    contestants = {"runyard": time_runyard, "bare": time_bare, "trainer": time_trainer}
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory(prefix="runyard-bench-") as folder:
        write_text(Path(folder) / "text")
        for turn in range(arguments.repeats):
            recipe = build_recipe(Path(folder), turn, arguments.steps, device)
            prepare(recipe, build_context(recipe))
            for name, measure in contestants.items():
                speeds[name].append(measure(recipe, device))
                print(f"turn {turn + 1} of {arguments.repeats}: {name:8} {speeds[name][-1]:9,.0f} tokens/s", flush=True)
    print_table(speeds, device)


def print_table(speeds: dict[str, list[float]], device: torch.device) -> None:
    """Print medians, and their ratio to the bare loop turn by turn."""
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"\n{where}, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"{'':10}{'tokens/s':>10}{'of bare':>10}   each turn")
    for name, values in speeds.items():
        share = statistics.median(value / bare for value, bare in zip(values, speeds["bare"], strict=True))
        turns = ", ".join(f"{value:,.0f}" for value in values)
        print(f"{name:10}{statistics.median(values):10,.0f}{share:10.1%}   {turns}")


# ----------------------------------------------------------------------------------------------------- what is trained


def write_text(folder: Path) -> None:
    """Write 300 documents of three lengths in words of a made-up language."""
    folder.mkdir()
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 8))) for _ in range(3000)]
    for number in range(300):
        text = " ".join(chance.choices(words, k=chance.choice([50, 200, 800])))
        (folder / f"{number:03}.txt").write_text(text)


def build_recipe(folder: Path, turn: int, steps: int, device: torch.device) -> Recipe:
    """Build the recipe of one turn: each has an output of its own, and all share the prepared data."""
    is_cpu = device.type == "cpu"
    config = {"model_type": "llama", "max_position_embeddings": 2048, **(CPU_SIZES if is_cpu else CUDA_SIZES)}
    return Recipe.model_validate(
        {
            "model": {"scratch": {"config": config, "tokenizer": {"train": {"vocabSize": 4096}}}},
            "data": {"train": [{"uri": f"file://{folder}/text/"}], "validation": {"fraction": 0.01}},
            "training": {
                "steps": steps + WARM_UP_STEPS,
                "sequenceLength": 256 if is_cpu else 2048,
                "batchSequences": 32,
                "microBatch": 8,
            },
            "evaluation": {"before": False},
            "checkpoint": {"everySteps": (steps + WARM_UP_STEPS + 1) // 2},
            "output": {"uri": f"file://{folder}/out-{turn}"},
        }
    )


def build_context(recipe: Recipe) -> RunContext:
    """Build the context of a run without an operator."""
    return RunContext.from_environment({}, recipe)


def build_model(recipe: Recipe, dataset: Dataset) -> Any:
    """Build the model as Runyard does, not sharded."""
    return initialize_model(
        fit_to_tokenizer(check_model(recipe), dataset.info), build_objective(recipe, dataset.info), recipe.training.seed
    )


def read_steps(recipe: Recipe) -> tuple[Dataset, list[StepBatches]]:
    """Open the prepared data and read every step's micro-batches."""
    training = recipe.training
    resolved = read_resolved(open_store(recipe.output.uri, recipe.storage))
    cache = build_context(recipe).scratch_dir / "bench"
    dataset = open_dataset(open_store(resolved.dataset, recipe.storage), cache)
    streams = {"train": kind_of(recipe, "train").open_samples(dataset, "train", recipe)}
    order = Order(len(streams["train"]), 0, 0.0, recipe.sequences_per_step, training.seed)
    objective = build_objective(recipe, dataset.info)
    with Batches(streams, objective, order, World(), training.micro_batch or 1) as batches:
        return dataset, [batches.step(step) for step in range(training.steps or 0)]


# ------------------------------------------------------------------------------------------------------- contestants


def time_runyard(recipe: Recipe, _device: torch.device) -> float:
    """Time Runyard: tokens per second from the metrics of the last warm-up step to those of the last step."""
    train(recipe, build_context(recipe))
    text = Path(recipe.output.uri.removeprefix("file://"), "metrics.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))[WARM_UP_STEPS - 1 :]
    first, last = (datetime.fromisoformat(row["time"]) for row in (rows[0], rows[-1]))
    return (int(rows[-1]["tokens"]) - int(rows[0]["tokens"])) / (last - first).total_seconds()


def time_bare(recipe: Recipe, device: torch.device) -> float:
    """Time the bare loop around the same model."""
    dataset, steps = read_steps(recipe)
    model = build_model(recipe, dataset)
    module = CausalLM(model, probe(model)).to(device).train()
    optimizer = build_optimizer(module, recipe.training.optimizer)
    is_bf16 = resolve_precision(recipe.training, device) == "bf16"
    started = 0.0
    for number, step in enumerate(steps):
        if number == WARM_UP_STEPS:
            started = now(device)
        for batch in step.micro_batches:
            inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
                (loss,) = module(**inputs)
            (loss / step.tokens).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), recipe.training.optimizer.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return count_tokens(steps) / (now(device) - started)


def time_trainer(recipe: Recipe, device: torch.device) -> float:
    """Time transformers' Trainer with the same sequences."""
    training = recipe.training
    dataset, steps = read_steps(recipe)
    clock = Clock(device)
    sequences = [
        {name: tensor[i] for name, tensor in batch.inputs.items()}
        for step in steps
        for batch in step.micro_batches
        for i in range(len(batch.inputs["input_ids"]))
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=build_model(recipe, dataset),
            train_dataset=cast(Any, sequences),
            callbacks=[clock],
            args=TrainingArguments(
                output_dir=folder,
                use_cpu=device.type == "cpu",
                bf16=resolve_precision(training, device) == "bf16",
                max_steps=training.steps or 0,
                per_device_train_batch_size=training.micro_batch or 1,
                gradient_accumulation_steps=recipe.sequences_per_step // (training.micro_batch or 1),
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
            ),
        )
        trainer.train()
    return count_tokens(steps) / (clock.ended - clock.started)


class Clock(TrainerCallback):
    """The times at which the warm-up and the last step ended."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.started = 0.0
        self.ended = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002 - its signature
        """Note the time: the Trainer calls this after each step."""
        self.ended = now(self.device)
        if state.global_step == WARM_UP_STEPS:
            self.started = self.ended


def count_tokens(steps: list[StepBatches]) -> int:
    """Count the tokens trained after the warm-up."""
    return sum(step.tokens for step in steps[WARM_UP_STEPS:])


def now(device: torch.device) -> float:
    """Return the time in seconds, after waiting for the device's pending work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
