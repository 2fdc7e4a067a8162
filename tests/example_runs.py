"""The manifests of examples/, the data that they read, and models opened as users open them: without our package."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import corpora
import yaml

EXAMPLES = Path(__file__).parents[1] / "examples"
BASE = "general"
"""Of whose model the others start."""
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
MAX_LINES = 120
"""Of a file of records, where runs are short."""
SHORT_TRAINING = {"steps": 4, "batchSequences": 4}

_STORE = "s3://runyard/demo/"
_CLASSES = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "masked-lm-nsp": "AutoModelForPreTraining",
    "sft": "AutoModelForCausalLM",
    "classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "preference": "AutoModelForCausalLM",
}

_OPEN = """
import json
import sys
import torch
import transformers
for folder, class_name in json.loads(sys.argv[1]).items():
    model, report = getattr(transformers, class_name).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), (folder, report)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer("Return the number of items.", return_tensors="pt"))[0]
    assert logits.isfinite().all(), folder
assert "runyard_trainer" not in sys.modules
"""


def build_files(*, is_short: bool) -> dict[str, bytes]:
    """Build the text and the records of all examples, by name."""
    sizes = (100_000, 10_000, 60_000) if is_short else (1_500_000, 60_000, 1_500_000)
    files = corpora.build_files(*sizes)
    for path in EXAMPLES.glob("*_records.py"):
        for name, data in import_module(path.stem).build_files().items():
            files[name] = b"".join(data.splitlines(keepends=True)[: MAX_LINES if is_short else None])
    return files


def read_example(name: str, store: str, *, is_short: bool) -> dict[str, Any]:
    """Read a manifest, with `store` in place of the examples' own prefix."""
    text = (EXAMPLES / f"{name}.yaml").read_text().replace(_STORE, store.rstrip("/") + "/")
    run: dict[str, Any] = yaml.safe_load(text)
    if is_short:
        spec = run["spec"]
        spec["training"] = {key: value for key, value in spec["training"].items() if key != "epochs"} | SHORT_TRAINING
        spec |= {"checkpoint": {"everySteps": 2}, "evaluation": {"before": False}}
        spec["compute"] = {"nodes": 1, "gpusPerNode": 1}
    return run


def check_models(objectives: dict[Path, str]) -> None:
    """Open exported models with their users' classes, in a process of its own, and run them."""
    names = {str(folder): _CLASSES[objective] for folder, objective in objectives.items()}
    argv = [sys.executable, "-I", "-c", _OPEN, json.dumps(names)]
    opened = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert opened.returncode == 0, opened.stderr
    for folder, class_name in names.items():
        config = json.loads(Path(folder, "config.json").read_text())
        assert config["architectures"][0].endswith(class_name.removeprefix("AutoModel"))
