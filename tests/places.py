"""A store with text in it, and runs that are prepared from it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from runyard_trainer.context import RunContext
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import PodReport
from runyard_trainer.contract.services import Storage
from runyard_trainer.data.dataset.dataset import Dataset, open_dataset, read_resolved
from runyard_trainer.prepare import prepare
from runyard_trainer.storage.base import Location
from runyard_trainer.storage.open import open_store
from transformers import AutoTokenizer

from tests.s3server import S3Server

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Place:
    """A store with text in it, and a folder for scratch."""

    base: Location
    storage: Storage
    scratch: Path

    @classmethod
    def in_folder(cls, folder: Path) -> Place:
        return cls(open_store(f"file://{folder}/store", Storage()), Storage(), folder / "scratch")

    @classmethod
    def on_s3(cls, server: S3Server, folder: Path) -> Place:
        """Open a bucket of its own; scratch is in the folder."""
        return cls(open_store(f"s3://{server.make_bucket()}/base", server.storage), server.storage, folder / "scratch")

    def recipe(self, **changes: object) -> Recipe:
        """Build a small run from scratch on text/; a change may be a whole section of it."""
        sections: dict[str, object] = {
            "model": {"scratch": {"config": LLAMA, "tokenizer": {"train": {"vocabSize": 300}}}},
            "data": {"train": [{"uri": f"{self.base}/text/"}], "validation": {"fraction": 0.2}},
            "training": {"epochs": 2, "sequenceLength": 32, "batchSequences": 4},
            "output": {"uri": f"{self.base}/out"},
            "storage": self.storage.model_dump(by_alias=True),
        }
        return Recipe.model_validate(sections | changes)

    def prepare(self, recipe: Recipe, uid: str = "uid-1") -> PodReport:
        context = RunContext.from_environment({"TMPDIR": str(self.scratch)}, recipe)
        return prepare(recipe, replace(context, run_uid=uid, namespace="team", run_name="mine"))

    def dataset(self) -> Dataset:
        resolved = read_resolved(self.base / "out")
        return open_dataset(open_store(resolved.dataset, self.storage), self.scratch / "cache", resolved.sha256)

    def put_text(self, folder: str = "text", count: int = 60) -> list[str]:
        """Put documents that differ, as JSONL, and one that is empty."""
        texts = [f"Document {i} of {folder} says that {i} times {i} is {i * i}." for i in range(count)]
        lines = [json.dumps({"text": text}) for text in [*texts, "  "]]
        (self.base / folder / "a.jsonl").put("\n".join(lines).encode())
        return texts

    def put_model(self, **config: object) -> None:
        """Put a folder that looks like a model's: weights are not read here."""
        (self.base / "model" / "config.json").put(json.dumps(LLAMA | {"vocab_size": 400} | config).encode())
        (self.base / "model" / "model.safetensors").put(b"weights")
        if not (self.base / "model" / "tokenizer.json").exists():
            self._put_tokenizer()

    def _put_tokenizer(self) -> None:
        self.put_text("other")
        made = replace(self, base=self.base / "made")
        made.put_text()
        made.prepare(made.recipe())
        source = made.dataset().location / "tokenizer"
        for name in source.children():
            (self.base / "model" / name).put((source / name).get().data)


def decode_all(dataset: Dataset, stream: str) -> list[str]:
    """Read the documents of a stream back from its tokens."""
    folder = Path(dataset._cache_dir) / "tokenizer"
    for name in (dataset.location / "tokenizer").children():
        (dataset.location / "tokenizer" / name).download_file(folder / name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = dataset.stream(stream)
    tokens = found.sequence(0, found.info.tokens).input_ids.tolist()
    documents = str(tokenizer.decode(tokens)).split("<|endoftext|>")
    assert documents.pop() == ""
    return documents
