"""What the trainer imports when it starts: every rank of every attempt waits for that."""

from __future__ import annotations

import subprocess
import sys

NEEDED_BY_FEW = {"bitsandbytes", "datasketch", "nltk", "pandas", "peft", "rouge_score", "seqeval", "sklearn", "trl"}
"""Each takes a second or more, and is imported where it is used."""


def test_the_trainer_starts_without_what_few_runs_need() -> None:
    code = "import sys, runyard_trainer.prepare, runyard_trainer.train; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not NEEDED_BY_FEW & {name.partition(".")[0] for name in done.stdout.split()}
