"""What happens to a run in a history, drawn from a seed, and where the run has to be in the end: the oracle.

The oracle knows nothing of the operator's code: it counts as the API's reference page promises.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

NUM_NODES = 2
INTERRUPTED, FATAL, OUT_OF_MEMORY = 75, 65, 137


@dataclass(frozen=True)
class Act:
    """What happens to an attempt once all its pods run."""

    kind: str
    """finish, crash, run out of memory, go wrong for good, lose a pod, lose its Job, be evicted, be suspended."""
    rank: int = 0
    """To which of its pods."""
    checkpoint: int | None = None
    """The step of the newest commit, as rank 0 tells with its last words."""


FAILURES = ("crash", "run out of memory")
DISRUPTIONS = ("lose a pod", "lose its Job", "be evicted")
LAST = ("finish", "go wrong for good")


@dataclass(frozen=True)
class Script:
    """A run's life: what prepare's pods do, then what each attempt does."""

    prepare: tuple[str, ...] = ("finish",)
    """finish, go wrong for good, be evicted; the last is one that ends it."""
    acts: tuple[Act, ...] = (Act("finish"),)
    max_failures: int = 3
    max_disruptions: int = 20

    def build_spec(self) -> dict[str, Any]:
        small = {"cpu": "100m", "memory": "64Mi"}
        return {
            "model": {"uri": "s3://models/base"},
            "data": {"train": [{"uri": "s3://corpora/text/"}]},
            "output": {"uri": "s3://models/out"},
            "compute": {"nodes": NUM_NODES, "gpusPerNode": 0, "resources": small},
            "prepare": {"resources": small},
            "recovery": {
                "maxFailures": self.max_failures,
                "maxDisruptions": self.max_disruptions,
                "terminationGracePeriodSeconds": 30,
            },
        }


@dataclass
class Outcome:
    """Where a run has to be in the end."""

    succeeds: bool = False
    reason: str = ""
    attempts: int = 0
    failures: int = 0
    disruptions: int = 0
    failures_since_checkpoint: int = 0
    checkpoint: int | None = None

    def fail(self, reason: str) -> Outcome:
        self.reason = reason
        return self


def foresee(script: Script) -> Outcome:
    """Follow the script by the documented rules, and return where the run has to end."""
    outcome = Outcome()
    if script.prepare[-1] == "go wrong for good":
        return outcome.fail("DataError")
    for act in script.acts:
        outcome.attempts += 1
        if act.checkpoint is not None and act.checkpoint > (outcome.checkpoint or 0):
            outcome.checkpoint = act.checkpoint
            outcome.failures_since_checkpoint = 0
        if act.kind == "finish":
            outcome.succeeds, outcome.reason = True, "Completed"
            return outcome
        if act.kind in (*FAILURES, "go wrong for good"):
            outcome.failures += 1
            outcome.failures_since_checkpoint += 1
        if act.kind == "go wrong for good":
            return outcome.fail("DataError")
        if outcome.failures_since_checkpoint > script.max_failures:
            return outcome.fail("FailureBudgetExceeded")
        if act.kind in DISRUPTIONS:
            outcome.disruptions += 1
            if outcome.disruptions > script.max_disruptions:
                return outcome.fail("DisruptionBudgetExceeded")
    raise AssertionError("the script has no end")


def draw_script(seed: int) -> Script:
    """Draw the script of a seed."""
    chance = random.Random(f"script/{seed}")
    prepare = ("be evicted",) * (chance.random() < 0.1)
    if chance.random() < 0.05:
        return Script(prepare=(*prepare, "go wrong for good"), acts=())
    kinds = chance.choices(
        (*FAILURES, *DISRUPTIONS, "be suspended"), weights=(3, 1, 2, 1, 1, 3), k=chance.randint(0, 4)
    )
    steps = sorted(chance.sample(range(1, 100), len(kinds)))
    acts = [draw_act(kind, step, chance) for kind, step in zip(kinds, steps, strict=True)]
    last = Act(chance.choices(LAST, weights=(9, 1))[0], chance.randrange(NUM_NODES))
    return Script((*prepare, "finish"), (*acts, last), chance.randint(0, 3), chance.randint(0, 4))


def draw_act(kind: str, step: int, chance: random.Random) -> Act:
    """Draw an act. Rank 0 alone reports a commit, and for certain only where its own end is the cause."""
    if kind in FAILURES and chance.random() < 0.4:
        return Act(kind, rank=0, checkpoint=step)
    return Act(kind, chance.randrange(NUM_NODES))
