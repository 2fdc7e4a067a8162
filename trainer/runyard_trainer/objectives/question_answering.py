"""Find the answer to a question in a text: its first and its last token.

    loss   the mean of two cross-entropies, of the first token and of the last, over the tokens of a window

Padding gets no probability, so the loss does not depend on what windows are batched with. The answer to a question is
the best of all spans of at most MAX_ANSWER_TOKENS tokens of the context, over all of its windows: the one with the
highest sum of the logits of its first and of its last token.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from numpy.typing import NDArray
from torch import Tensor

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.records.base import Sample
from runyard_trainer.objectives.base import Fact, MicroBatch, Objective, ObjectiveModule, pad, probe_padded

MAX_ANSWER_TOKENS = 30


class AnswerFinder(ObjectiveModule):
    """The objective around a transformers model for question answering."""

    def forward(self, start_positions: Tensor, end_positions: Tensor, **inputs: Tensor) -> Tensor:  # type: ignore[override]  # it needs these
        """Return the summed loss, [1]; positions are int64 [windows]."""
        return self.predict(start_positions, end_positions, **inputs)[0]

    def predict(  # type: ignore[override]  # as above
        self, start_positions: Tensor, end_positions: Tensor, **inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the same and each token's logits to be the first and the last of the answer, fp32 [windows, 2,
        tokens].
        """
        output = self.run_padded(**inputs)
        logits = torch.stack([output.start_logits, output.end_logits], dim=1).float()
        logits = logits.masked_fill(inputs["attention_mask"][:, None] == 0, torch.finfo(logits.dtype).min)
        positions = torch.stack([start_positions, end_positions], dim=1)
        loss = F.cross_entropy(logits.flatten(0, 1), positions.flatten(), ignore_index=IGNORED, reduction="sum") / 2
        return torch.stack([loss]), logits


_STACKED = ("start_positions", "end_positions")


def collate(pad_token_id: int, samples: Sequence[Sample], _: Sequence[int], length: int) -> MicroBatch:
    """Pad windows of different lengths."""
    fills = {"input_ids": pad_token_id, "token_type_ids": 0}
    inputs = pad([{name: sample[name] for name in (*fills, *_STACKED)} for sample in samples], fills, length)
    num_windows = int((inputs["start_positions"] != IGNORED).sum())
    return MicroBatch(inputs, (num_windows,), int(inputs["attention_mask"].sum()))


# ------------------------------------------------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class FoundAnswer:
    """The best span of a window."""

    question: int
    score: float
    text: str
    answers: list[str]
    """The right answers."""


def observe(sample: Sample, logits: Tensor) -> Fact:
    """Return the window's best answer."""
    first, count = sample["first_token"], len(sample["starts"])
    start_logits, end_logits = logits[:, first : first + count].numpy()
    start, end, score = find_best_span(start_logits, end_logits)
    text = sample["text"][sample["starts"][start] : sample["stops"][end]]
    return FoundAnswer(sample["question"], score, text.strip(), sample["answers"])


def find_best_span(
    start_logits: NDArray[np.float32], end_logits: NDArray[np.float32], max_tokens: int = MAX_ANSWER_TOKENS
) -> tuple[int, int, float]:
    """Return the first and last token of the span whose two logits have the highest sum, and that sum."""
    padded = np.pad(end_logits, (0, max_tokens - 1), constant_values=-np.inf)
    scores = start_logits[:, None] + np.lib.stride_tricks.sliding_window_view(padded, max_tokens)
    start, more = np.unravel_index(scores.argmax(), scores.shape)
    return int(start), int(start + more), float(scores[start, more])


def score(facts: Sequence[FoundAnswer]) -> dict[str, float]:
    """Compare the best window's answer to each question with the right one that is most like it, as SQuAD's script
    does.
    """
    best: dict[int, FoundAnswer] = {}
    for fact in facts:
        if fact.question not in best or fact.score > best[fact.question].score:
            best[fact.question] = fact
    return {
        "exactMatch": _mean([max(is_same(found.text, right) for right in found.answers) for found in best.values()]),
        "answerF1": _mean([max(measure_f1(found.text, right) for right in found.answers) for found in best.values()]),
    }


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer: str) -> str:
    """Return an answer in lower case, without punctuation and articles, in single spaces, as SQuAD's script does."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split())


def is_same(found: str, right: str) -> bool:
    """Return whether two answers match exactly, once normalized."""
    return normalize(found) == normalize(right)


def measure_f1(found: str, right: str) -> float:
    """Return the F1 of the words of two answers; where one has none left, 1 if both have none."""
    words, right_words = normalize(found).split(), normalize(right).split()
    if not words or not right_words:
        return float(words == right_words)
    num_same = (Counter(words) & Counter(right_words)).total()
    return 2 * num_same / (len(words) + len(right_words))


def configure(config: Any) -> None:
    """Give the head two outputs: the logits of the first and of the last token."""
    config.num_labels = 2


def build_objective(_: Recipe, info: DatasetInfo) -> Objective:
    """Build the objective: find answers."""
    assert info.pad_token_id is not None
    return Objective(
        module=AnswerFinder,
        probe=probe_padded,
        collate=partial(collate, info.pad_token_id),
        configure=configure,
        new_weights=("qa_outputs", "head", "classifier"),
        observe=observe,
        score=score,
    )
