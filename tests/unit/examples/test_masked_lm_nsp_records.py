"""The documents of sentences that the example of masked-lm-nsp builds from the running Python."""

from __future__ import annotations

import json

from masked_lm_nsp_records import build_files


def test_documents_have_two_sentences_or_more_and_none_is_on_both_sides() -> None:
    files = build_files(200_000, 20_000)
    assert files == build_files(200_000, 20_000)
    trained, held_out = (
        [tuple(json.loads(line)["sentences"]) for line in files[f"{name}/docstrings.jsonl"].splitlines()]
        for name in ("sentences", "sentences-held-out")
    )
    assert len(trained) > 50
    assert len(held_out) > 5
    assert min(map(len, trained + held_out)) >= 2
    assert not set(trained) & set(held_out)
