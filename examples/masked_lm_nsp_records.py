"""Documents of sentences for masked-lm-nsp, out of the running Python: docstrings and pydoc's topics.

    python examples/masked_lm_nsp_records.py FOLDER | s3://bucket/prefix

    sentences/docstrings.jsonl           documents of two sentences or more: {"sentences": [...]}
    sentences-held-out/docstrings.jsonl  those of other modules, other topics

They are the general text of `corpora.py`, with its split. The same Python gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys

from corpora import build_general, upload
from runyard_trainer.contract import Storage
from runyard_trainer.outcome import UserError
from runyard_trainer.records.sentences import split_sentences

TRAIN_BYTES = 1_500_000
HELD_OUT_BYTES = 60_000


def build_files(train_bytes: int = TRAIN_BYTES, held_out_bytes: int = HELD_OUT_BYTES) -> dict[str, bytes]:
    """Everything that is uploaded, by its name below the destination."""
    return {
        "sentences/docstrings.jsonl": _build(is_held_out=False, max_bytes=train_bytes),
        "sentences-held-out/docstrings.jsonl": _build(is_held_out=True, max_bytes=held_out_bytes),
    }


def _build(is_held_out: bool, max_bytes: int) -> bytes:
    documents = (list(split_sentences(document.text)) for document in build_general(is_held_out, max_bytes))
    return "".join(json.dumps({"sentences": document}) + "\n" for document in documents if len(document) > 1).encode()


def main() -> int:
    """Build, upload, and say how much it was."""
    parser = argparse.ArgumentParser(description="Build documents of sentences from the running Python.")
    parser.add_argument("destination", help="a folder, or s3://bucket/prefix")
    args = parser.parse_args()
    files = build_files()
    try:
        upload(files, args.destination, Storage())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(files)} files, {sum(map(len, files.values())) / 1e6:.1f} MB, to {args.destination}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
