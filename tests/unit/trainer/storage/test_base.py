"""Both stores keep the same promises; the S3 one is asked of a real server."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.services import Storage
from runyard_trainer.storage import s3 as s3_module
from runyard_trainer.storage.base import Location, NotFound, PreconditionFailed, StorageUnavailable
from runyard_trainer.storage.folder import FolderStore
from runyard_trainer.storage.open import open_store
from runyard_trainer.storage.probe import probe

from tests.s3server import S3Server


@pytest.fixture(params=["folder", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty place in each kind of store."""
    if request.param == "folder":
        return open_store(f"file://{tmp_path}/some/output", Storage(), "output.uri")
    server: S3Server = request.getfixturevalue("s3")
    return open_store(f"s3://{server.make_bucket()}/some/output/", server.storage, "output.uri")


def test_what_was_put_is_got_with_the_same_etag(location: Location) -> None:
    etag = (location / "a.json").put(b"hello world")
    assert (location / "a.json").get().data == b"hello world"
    assert (location / "a.json").get().etag == etag
    assert (location / "a.json").head().etag == etag
    assert (location / "a.json").head().size_bytes == 11
    assert location.store.get_range((location / "a.json").prefix, 6, 100) == b"world"


def test_another_content_has_another_etag(location: Location) -> None:
    first = (location / "a").put(b"1")
    assert (location / "a").put(b"2") != first


def test_what_is_not_there_is_not_found(location: Location) -> None:
    for read in ((location / "a").get, (location / "a").head, lambda: (location / "a").download_file(Path("unused"))):
        with pytest.raises(NotFound, match="some/output/a does not exist"):
            read()
    assert not (location / "a").exists()
    assert list(location.list()) == []
    (location / "a").delete()


def test_a_listing_holds_what_lies_below_in_order_and_nothing_else(location: Location) -> None:
    for name in ("b/2", "b/10", "a", "bc"):
        (location / name).put(b"x")
    (location.parent / "output2").put(b"x")
    assert list(location.children()) == ["a", "b/10", "b/2", "bc"]
    assert list((location / "b").children()) == ["10", "2"]


def test_an_object_that_must_be_new_is_not_overwritten(location: Location) -> None:
    (location / "a").put(b"1", if_none_match=True)
    with pytest.raises(PreconditionFailed):
        (location / "a").put(b"2", if_none_match=True)
    assert (location / "a").get().data == b"1"


def test_an_object_that_has_changed_is_not_overwritten(location: Location) -> None:
    seen = (location / "a").put(b"1")
    newer = (location / "a").put(b"2", if_match=seen)
    with pytest.raises(PreconditionFailed):
        (location / "a").put(b"3", if_match=seen)
    (location / "a").put(b"4", if_match=newer)
    assert (location / "a").get().data == b"4"


def test_of_racing_conditional_writers_one_wins(location: Location) -> None:
    seen = (location / "head").put(b"start")

    def write(i: int, **condition: str | bool) -> bool:
        target = location / ("head" if "if_match" in condition else "new")
        try:
            target.put(b"writer %d" % i, **condition)  # type: ignore[arg-type]  # one of the two keywords
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda i: write(i, if_match=seen), range(8))) == 1
        assert sum(pool.map(lambda i: write(i, if_none_match=True), range(8))) == 1


@pytest.mark.parametrize("num_bytes", [1000, 2 << 20])
def test_who_reads_while_another_replaces_gets_a_whole_version_and_no_later_etag(
    location: Location, num_bytes: int
) -> None:
    versions = [b"%02d" % i * (num_bytes // 2) for i in range(30)]
    etags = [(location / "a").put(versions[0])]

    def replace() -> None:
        etags.extend((location / "a").put(version) for version in versions[1:])

    with ThreadPoolExecutor(1) as pool:
        replacing = pool.submit(replace)
        read = [(location / "a").get()]
        while not replacing.done():
            read.append((location / "a").get())
        replacing.result()
    assert all(etags.index(blob.etag) <= versions.index(blob.data) for blob in read)


def test_of_racing_writers_who_read_first_none_undoes_what_another_has_done(location: Location) -> None:
    counter = location / "counter"
    counter.put(b"0")

    def count_up() -> None:
        while True:
            seen = counter.get()
            try:
                counter.put(b"%d" % (int(seen.data) + 1), if_match=seen.etag)
            except PreconditionFailed:
                continue
            return

    with ThreadPoolExecutor(4) as pool:
        for counted in [pool.submit(count_up) for _ in range(40)]:
            counted.result()
    assert counter.get().data == b"40"


def test_large_files_go_up_and_down_whole(location: Location, tmp_path: Path) -> None:
    data = os.urandom(33 << 20)
    (tmp_path / "up").write_bytes(data)
    (location / "big").upload_file(tmp_path / "up")
    (location / "big").download_file(tmp_path / "new folder" / "down")
    assert (tmp_path / "new folder" / "down").read_bytes() == data
    with (location / "big").open() as stream:
        assert stream.read() == data


def test_a_stream_notices_that_its_object_has_changed(location: Location) -> None:
    (location / "a").put(b"1" * (9 << 20))
    with (location / "a").open() as stream:
        stream.read(10)
        (location / "a").put(b"2" * (9 << 20))
        with pytest.raises(PreconditionFailed):
            stream.read()


def test_the_probe_leaves_nothing_behind(location: Location) -> None:
    probe(location)
    assert list(location.list()) == []


class _UnconditionalStore(FolderStore):
    """A store of the kind that overlooks conditions."""

    def put(self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False) -> str:
        return super().put(key, data)


def test_a_store_without_conditional_writes_is_refused_unless_the_recipe_accepts_it(tmp_path: Path) -> None:
    location = Location(_UnconditionalStore("output.uri"), str(tmp_path).strip("/"))
    with pytest.raises(UserError, match=r"does not keep conditional writes .* storage\.fencing: none") as refused:
        probe(location)
    assert refused.value.code is ExitCode.STORAGE_ERROR
    probe(location, fencing="none")


# ---------------------------------------------------------------------------------------------- what will not mend


def _error_of(location: Location) -> UserError:
    with pytest.raises(UserError) as caught:
        probe(location)
    assert caught.value.code is ExitCode.STORAGE_ERROR
    return caught.value


def test_a_missing_bucket_is_named_with_its_field_and_endpoint(s3: S3Server) -> None:
    location = open_store("s3://no-such-bucket/x", s3.storage, "output.uri")
    message = str(_error_of(location))
    assert message.startswith("output.uri: cannot write s3://no-such-bucket/x/.runyard-probe-")
    assert message.endswith(f"at {s3.endpoint}: there is no such bucket: create it, or mend output.uri")
    with pytest.raises(UserError, match="there is no such bucket"):
        location.head()


def test_a_wrong_secret_key_is_told_apart_from_an_unknown_access_key(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.make_bucket()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-key")
    error = str(_error_of(open_store(f"s3://{bucket}/x", s3.storage, "output.uri")))
    assert "the secret key is wrong: check AWS_SECRET_ACCESS_KEY in the Secret that storage.secretName names" in error
    assert "not-the-secret-key" not in error
    s3_module.open_client.cache_clear()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    error = str(_error_of(open_store(f"s3://{bucket}/x", s3.storage, "output.uri")))
    assert "the access key is unknown: check AWS_ACCESS_KEY_ID in the Secret that storage.secretName names" in error


def test_absent_credentials_are_asked_for(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    error = str(_error_of(open_store("s3://bucket/x", s3.storage, "output.uri")))
    assert error.startswith(f"output.uri: no credentials for {s3.endpoint}: give AWS_ACCESS_KEY_ID and")


def test_a_server_that_does_not_answer_is_worth_another_attempt(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "_MAX_ATTEMPTS", 1)
    away = Storage(endpoint="http://127.0.0.1:9", addressing="path")
    with pytest.raises(StorageUnavailable, match=r"cannot read s3://bucket/x at http://127\.0\.0\.1:9"):
        open_store("s3://bucket/x", away).get()


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = _error_of(open_store(f"file://{tmp_path}/file", Storage(), "output.uri"))
    assert str(error).startswith(f"output.uri: file://{tmp_path}/file/.runyard-probe-")
    assert str(error).endswith("Choose a folder that this user may read and write")


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "a/.."])
def test_a_key_does_not_lead_out_of_its_folder(key: str, tmp_path: Path) -> None:
    location = open_store(f"file://{tmp_path}/inside", Storage(), "output.uri")
    with pytest.raises(UserError, match=r"leads out of its folder: remove the '\.\.'"):
        (location / key).put(b"")


def test_a_relative_file_uri_is_refused() -> None:
    with pytest.raises(UserError, match=r"output\.uri: file://folder is not absolute: write file:///folder"):
        open_store("file://folder", Storage(), "output.uri")
