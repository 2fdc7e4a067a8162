"""lm-evaluation-harness, in an environment of its own, finds the loss that eval.json has."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.ranks.exports import ARCHITECTURES, BuildPrepared, measure_and_export
from tests.ranks.run_ranks import run_ranks
from tests.side_venv import install_beside

VERSION = "0.4.13"

HARNESS = """
import json, math, sys
from lm_eval.models.huggingface import HFLM

folder, evaluation = sys.argv[1], json.load(open(sys.argv[2]))
model = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=4)
losses = {}
for name, held_out in evaluation["sets"].items():
    path = held_out["text"].removeprefix("file://")
    texts = [json.loads(line)["text"] for line in open(path, encoding="utf-8")]
    place, requests = 0, []
    for text in texts:
        document = model.tok_encode(text, add_special_tokens=False) + [model.eot_token_id]
        while document:
            room = evaluation["sequenceLength"] - place % evaluation["sequenceLength"]
            piece, document = document[:room], document[room:]
            place += len(piece)
            if len(piece) > 1:
                requests.append((("", ""), piece[:1], piece[1:]))
    answers = model._loglikelihood_tokens(requests, disable_tqdm=True)
    predicted = sum(len(continuation) for _, _, continuation in requests)
    losses[name + "Loss"] = -sum(logprob for logprob, _ in answers) / predicted
print(json.dumps(losses))
"""


@pytest.mark.full
@pytest.mark.parametrize("architecture", ["llama whose embeddings are tied", "gpt2"])
def test_lm_evaluation_harness_finds_the_perplexity_of_eval_json(
    build_prepared: BuildPrepared, architecture: str
) -> None:
    recipe, folder = build_prepared(ARCHITECTURES[architecture])
    run_ranks(measure_and_export, 1, recipe.to_json(), folder)
    python = install_beside("lm-eval", "lm-eval", VERSION)
    done = subprocess.run(
        [python, "-c", HARNESS, folder / "run/model", folder / "run/eval.json"],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    claimed = json.loads((folder / "run/eval.json").read_text())["after"]
    assert found == pytest.approx({name: claimed[name] for name in found}, abs=1e-4)
