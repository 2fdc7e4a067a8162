"""What was written as documents is read as packed sequences, whatever the lengths and however the shards fall."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.services import Storage
from runyard_trainer.data.dataset.dataset import Dataset, DatasetInfo, open_dataset
from runyard_trainer.data.dataset.token_shards import IGNORED, ShardWriter, token_dtype
from runyard_trainer.storage.base import Location
from runyard_trainer.storage.open import open_store

EOS = 0


def write(folder: Path, documents: list[list[int]], shard_bytes: int = 1 << 20, dtype: str = "uint16") -> Location:
    """A dataset of one stream; returns where its dataset.json is."""
    location = open_store(f"file://{folder}/prepared", Storage())
    writer = ShardWriter(location, "train", dtype, shard_bytes)
    for document in documents:
        writer.add({"input_ids": document})
    info = DatasetInfo(dtype=dtype, vocab_size=100, eos_token_id=EOS, streams={"train": writer.finish()})
    (location / "dataset.json").put(info.to_json().encode())
    return location / "dataset.json"


def read(folder: Path, documents: list[list[int]], shard_bytes: int = 1 << 20, dtype: str = "uint16") -> Dataset:
    return open_dataset(write(folder, documents, shard_bytes, dtype), folder / "cache")


def expect(documents: list[list[int]], start: int, length: int) -> tuple[list[int], list[int], list[int]]:
    """The sequence of tokens [start, start + length), said the slow way: one token after the other."""
    flat = [(token, place) for document in documents for place, token in enumerate(document)]
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    for token, place in flat[start : start + length]:
        position = 0 if place == 0 or not positions else positions[-1] + 1
        ids.append(token)
        positions.append(position)
        labels.append(IGNORED if position == 0 else token)
    padding = length - len(ids)
    return ids + [EOS] * padding, positions + list(range(padding)), labels + [IGNORED] * padding


corpora = st.lists(
    st.lists(st.integers(1, 99), max_size=12).map(lambda tokens: [*tokens, EOS]), min_size=1, max_size=20
)


@given(documents=corpora, length=st.integers(2, 17), shard_bytes=st.integers(1, 60))
def test_sequences_hold_every_token_in_order_with_positions_and_labels_that_restart_at_documents(
    documents: list[list[int]], length: int, shard_bytes: int
) -> None:
    with TemporaryDirectory() as folder:
        stream = read(Path(folder), documents, shard_bytes).stream("train")
        num_tokens = sum(map(len, documents))
        assert stream.num_sequences(length, keep_tail=False) == num_tokens // length
        assert stream.num_sequences(length, keep_tail=True) == -(-num_tokens // length)
        for i in range(stream.num_sequences(length, keep_tail=True)):
            found = stream.sequence(i, length)
            got = (found.input_ids.tolist(), found.position_ids.tolist(), found.labels.tolist())
            assert got == expect(documents, i * length, length)
            assert found.input_ids.dtype == found.position_ids.dtype == found.labels.dtype == np.int64


def test_a_sequence_out_of_range_is_refused(tmp_path: Path) -> None:
    stream = read(tmp_path, [[1, 2, 3, EOS]]).stream("train")
    for i in (-1, 2):
        with pytest.raises(IndexError, match=f"sequence {i} of 2 tokens is not in a stream of 4"):
            stream.sequence(i, 2)


def test_a_stream_that_was_not_prepared_is_empty(tmp_path: Path) -> None:
    stream = read(tmp_path, [[1, EOS]]).stream("replay")
    assert (stream.info.documents, stream.num_sequences(2, keep_tail=True)) == (0, 0)


def test_shards_are_named_by_their_content_and_counted(tmp_path: Path) -> None:
    manifest = write(tmp_path, [[1, EOS], [2, 3, EOS], [4, EOS]], shard_bytes=8)
    info = DatasetInfo.model_validate_json(manifest.get().data).streams["train"]
    assert (info.documents, info.tokens, info.bytes) == (3, 7, 0)
    assert info.document_tokens == {"p50": 2, "p90": 3, "p99": 3, "max": 3}
    assert [(shard.tokens, shard.documents) for shard in info.shards] == [(5, 2), (2, 1)]
    for number, shard in enumerate(info.shards):
        data = (manifest.parent / f"{shard.name}.bin").get().data
        assert shard.name == f"train-{number:05d}-{hashlib.sha256(data).hexdigest()}"
    assert (manifest.parent / f"{info.shards[0].name}.bin").get().data == np.array([1, 0, 2, 3, 0], "<u2").tobytes()
    assert (manifest.parent / f"{info.shards[0].name}.idx").get().data == np.array([2, 5], "<u8").tobytes()


def test_large_vocabularies_take_four_bytes_a_token(tmp_path: Path) -> None:
    assert (token_dtype(65_536), token_dtype(65_537)) == ("uint16", "uint32")
    stream = read(tmp_path, [[70_000, 5, EOS]], dtype="uint32").stream("train")
    assert stream.sequence(0, 3).input_ids.tolist() == [70_000, 5, EOS]


def test_a_damaged_shard_is_refused_with_what_to_do(tmp_path: Path) -> None:
    manifest = write(tmp_path, [[1, 2, EOS]])
    dataset = open_dataset(manifest, tmp_path / "cache")
    shard = dataset.info.streams["train"].shards[0]
    (manifest.parent / f"{shard.name}.bin").put(b"\x09\x09\x09\x09\x00\x00")
    with pytest.raises(
        UserError, match=r"is damaged or was changed: .* Delete .*/prepared/ and prepare again"
    ) as error:
        dataset.stream("train").sequence(0, 3)
    assert error.value.code is ExitCode.DATA_ERROR


def test_another_dataset_json_than_the_resolved_one_is_refused(tmp_path: Path) -> None:
    manifest = write(tmp_path, [[1, 2, EOS]])
    open_dataset(manifest, tmp_path / "cache", hashlib.sha256(manifest.get().data).hexdigest())
    with pytest.raises(UserError, match="is damaged or was changed"):
        open_dataset(manifest, tmp_path / "cache", "0" * 64)


def test_ranks_of_a_node_that_read_at_once_download_a_shard_once(tmp_path: Path) -> None:
    manifest = write(tmp_path, [[token, EOS] for token in range(1, 90)], shard_bytes=1 << 10)
    datasets = [open_dataset(manifest, tmp_path / "cache") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda dataset: dataset.stream("train").sequence(3, 16).input_ids.tolist(), datasets))
    assert found == [found[0]] * 8
    cached = sorted(path.suffix for path in (tmp_path / "cache").iterdir())
    assert cached == [".bin", ".idx", ".lock", ".lock"]
