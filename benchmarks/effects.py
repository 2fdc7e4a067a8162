"""Measure what small models learn and forget in training, with several seeds, and check each claim for every seed.

    python benchmarks/effects.py [--seeds 3] [--jobs 2]

    language   a llama pre-trained on English, then continued on source code: without replay, with 5 and with 25 % of
               English replayed, with 25 % that the model writes itself, by LoRA; and one from random weights on the
               same code for the same number of steps
    classes    a BERT pre-trained on source code, then fine-tuned on 500 docstrings to name their package; and the same
               after masked-lm training on unlabelled docstrings of these packages

The text is from the running Python (examples/). Each run is the trainer alone, in one process with one thread; a seed
changes the initial weights and the order of the samples. Prints two tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import classification_records  # noqa: E402 - examples/ is no package
import corpora  # noqa: E402
from runyard_trainer.contract.services import Storage  # noqa: E402

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
BERT = {
    "model_type": "bert",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
BATCH = {"sequenceLength": 128, "batchSequences": 16, "microBatch": 16}
NUM_LABELLED = 500
NUM_HELD_OUT = 400

Losses = dict[str, Any]


@dataclass(frozen=True)
class SeedRuns:
    """The folder with the corpora and the outputs of all runs, for one seed."""

    folder: Path
    seed: int

    def source(self, name: str) -> list[dict[str, str]]:
        """Return a corpus as the sources of a recipe."""
        return [{"uri": f"{self.folder.as_uri()}/corpora/{name}"}]

    def model(self, run: str) -> dict[str, str]:
        """Return the model of another run as a recipe's model."""
        return {"uri": f"{self.folder.as_uri()}/{run}-{self.seed}/model"}

    def train(self, run: str, steps: int, learning_rate: float, **sections: Any) -> dict[str, Losses]:
        """Train without a cluster; return `before` and `after` of eval.json."""
        name = f"{run}-{self.seed}"
        recipe = sections | {
            "training": BATCH | {"steps": steps, "learningRate": learning_rate, "seed": self.seed},
            "output": {"uri": f"{self.folder.as_uri()}/{name}"},
        }
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(recipe))
        scratch = self.folder / f"{name}-scratch"
        scratch.mkdir()
        env = {**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"}
        argv = [sys.executable, "-m", "runyard_trainer", str(path)]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr}")
        print(f"{name} is done", file=sys.stderr)
        found: dict[str, Losses] = json.loads((self.folder / name / "eval.json").read_text())
        return {moment: found[moment] for moment in ("before", "after")}


def run_language(runs: SeedRuns) -> dict[str, dict[str, Losses]]:
    """Run all runs of the llama; return their losses by name."""
    general = {"general": runs.source("general-held-out/")}
    english, code = runs.source("general/"), runs.source("code/")
    scratch = {"scratch": {"config": LLAMA, "tokenizer": {"train": {"vocabSize": 1024}}}}
    validation = {"fraction": 0.1}
    runs.train("english", 600, 3e-3, model=scratch, data={"train": english, "validation": validation})
    tokenizer = {"uri": f"{runs.folder.as_uri()}/english-{runs.seed}/model"}
    own = {"scratch": {"config": LLAMA, "tokenizer": tokenizer}}
    continue_run = partial(runs.train, steps=120, learning_rate=3e-3, evaluation=general)

    def data(replayed: float) -> dict[str, Any]:
        replay = {"replay": {"fraction": replayed, "sources": english}} if replayed else {}
        return {"train": code, "validation": validation, **replay}

    own_replay = data(0) | {"replay": {"fraction": 0.25, "source": "self"}}
    english_model = runs.model("english")
    return {
        "no replay": continue_run("replay-0", model=english_model, data=data(0)),
        "5 % replay": continue_run("replay-5", model=english_model, data=data(0.05)),
        "25 % replay": continue_run("replay-25", model=english_model, data=data(0.25)),
        "25 % of its own": continue_run("replay-self", model=english_model, data=own_replay),
        "LoRA": continue_run("lora", model=english_model, data=data(0), method={"type": "lora", "rank": 8}),
        "from scratch": continue_run("scratch", model=own, data=data(0)),
    }


def run_classes(runs: SeedRuns) -> dict[str, dict[str, Losses]]:
    """Run all runs of the BERT; return the losses of those that end with a classifier, by name."""
    scratch = {"scratch": {"config": BERT, "tokenizer": {"train": {"type": "wordpiece", "vocabSize": 2048}}}}
    masked = partial(runs.train, objective="masked-lm", learning_rate=2e-3)
    masked("code-encoder", 400, model=scratch, data={"train": runs.source("code/")})
    unlabelled = {"train": runs.source("docstrings/unlabelled.jsonl")}
    masked("docstring-encoder", 300, model=runs.model("code-encoder"), data=unlabelled)
    labelled = {
        "train": runs.source("docstrings/labelled.jsonl"),
        "validation": {"sources": runs.source("docstrings/held-out.jsonl")},
    }
    classify = partial(runs.train, steps=120, learning_rate=5e-4, objective="classification", data=labelled)
    return {
        "classification alone": classify("classes", model=runs.model("code-encoder")),
        "masked-lm in the domain first": classify("classes-after", model=runs.model("docstring-encoder")),
    }


def build_files() -> dict[str, bytes]:
    """Build all text, by name below `corpora/`."""
    ((_, records),) = classification_records.build_files().items()
    lines = records.splitlines(keepends=True)
    learned = lines[NUM_HELD_OUT:]
    texts = (json.dumps({"text": json.loads(line)["text"]}) + "\n" for line in learned)
    return {
        **corpora.build_files(600_000, 60_000, 600_000),
        "docstrings/held-out.jsonl": b"".join(lines[:NUM_HELD_OUT]),
        "docstrings/labelled.jsonl": b"".join(learned[:NUM_LABELLED]),
        "docstrings/unlabelled.jsonl": "".join(texts).encode(),
    }


# --------------------------------------------------------------------------------------------------------------- claims

Seed = dict[str, dict[str, Losses]]
"""The losses of one seed's runs, by name, before and after training."""


def forgot(run: dict[str, Losses]) -> float:
    """Return by how many nats per token the loss on general text has grown."""
    return float(run["after"]["generalLoss"]) - float(run["before"]["generalLoss"])


def domain_loss(run: dict[str, Losses]) -> float:
    """Return the loss on held-out domain text, in nats per token."""
    return float(run["after"]["domainLoss"])


def macro_f1(run: dict[str, Losses]) -> float:
    """Return the macro F1 on held-out records."""
    return float(run["after"]["metrics"]["macroF1"])


CLAIMS: dict[str, Callable[[Seed], bool]] = {
    "more replay, less forgotten: 0 > 5 > 25 %": lambda seed: (
        forgot(seed["no replay"]) > forgot(seed["5 % replay"]) > forgot(seed["25 % replay"])
    ),
    "what the model writes itself helps less than its text, and more than nothing": lambda seed: (
        forgot(seed["no replay"]) > forgot(seed["25 % of its own"]) > forgot(seed["25 % replay"])
    ),
    "continued beats from scratch by 0.6 nat or more, at equal steps": lambda seed: (
        domain_loss(seed["from scratch"]) - domain_loss(seed["no replay"]) >= 0.6
    ),
    "LoRA forgets less than full training, and learns less": lambda seed: (
        forgot(seed["LoRA"]) < forgot(seed["no replay"]) and domain_loss(seed["LoRA"]) > domain_loss(seed["no replay"])
    ),
    "masked-lm in the domain before classification beats classification alone": lambda seed: (
        macro_f1(seed["masked-lm in the domain first"]) > macro_f1(seed["classification alone"])
    ),
}


def print_runs(seeds: list[Seed]) -> None:
    """Print what each run has learned and forgotten: the mean, and each seed."""
    print("| run | held-out domain, nats per token | general, change in nats | macro F1 |\n|---|---|---|---|")
    for name in seeds[0]:
        runs = [seed[name] for seed in seeds]
        is_classifier = "metrics" in runs[0]["after"]
        domain = "" if is_classifier else _format(map(domain_loss, runs))
        knew_general = not is_classifier and name != "from scratch"
        general = _format(map(forgot, runs), sign="+") if knew_general else ""
        print(f"| {name} | {domain} | {general} | {_format(map(macro_f1, runs)) if is_classifier else ''} |")


def _format(values: Any, sign: str = "") -> str:
    listed = list(values)
    return f"{statistics.mean(listed):{sign}.3f} ({', '.join(f'{value:{sign}.3f}' for value in listed)})"


def main() -> int:
    """Run all seeds and print; exit status 1 where a claim does not hold for every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="seeds at once (default: one a CPU)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="runyard-effects-") as name, ThreadPoolExecutor(arguments.jobs) as pool:
        corpora.upload(build_files(), f"{name}/corpora", Storage())
        seeded = [SeedRuns(Path(name), seed) for seed in range(arguments.seeds)]
        seeds = list(pool.map(lambda runs: run_language(runs) | run_classes(runs), seeded))
    print_runs(seeds)
    print("\n| claim | holds for |\n|---|---|")
    held = {claim: sum(map(holds, seeds)) for claim, holds in CLAIMS.items()}
    for claim, count in held.items():
        print(f"| {claim} | {count} of {len(seeds)} seeds |")
    return 0 if all(count == len(seeds) for count in held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
