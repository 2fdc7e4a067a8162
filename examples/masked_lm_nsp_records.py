"""Make records for masked-lm-nsp.yaml: docstrings and pydoc's topics as documents of sentences.

    python examples/masked_lm_nsp_records.py FOLDER | s3://bucket/prefix

    sentences/docstrings.jsonl           documents of two sentences or more: {"sentences": [...]}
    sentences-held-out/docstrings.jsonl  such documents of other modules and topics

The text and the split are those of `corpora.py`. The same Python gives the same bytes.
"""

from __future__ import annotations

import sys

from corpora import build_general
from docstrings import main, to_jsonl
from runyard_trainer.data.records.sentences import split_sentences

TRAIN_BYTES = 1_500_000
HELD_OUT_BYTES = 60_000


def build_files(train_bytes: int = TRAIN_BYTES, held_out_bytes: int = HELD_OUT_BYTES) -> dict[str, bytes]:
    """Build the files to upload, by name below the destination."""
    return {
        "sentences/docstrings.jsonl": _build(is_held_out=False, max_bytes=train_bytes),
        "sentences-held-out/docstrings.jsonl": _build(is_held_out=True, max_bytes=held_out_bytes),
    }


def _build(is_held_out: bool, max_bytes: int) -> bytes:
    documents = (list(split_sentences(document.text)) for document in build_general(is_held_out, max_bytes))
    return to_jsonl({"sentences": document} for document in documents if len(document) > 1)


if __name__ == "__main__":
    sys.exit(main(build_files, "Build documents of sentences from the running Python."))
