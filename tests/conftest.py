"""One real S3 server for the tests of all folders, and how tests are shared out among processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

import pytest
from hypothesis import settings
from runyard_trainer.storage import s3 as s3_storage
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.s3server import S3Server, serve_s3

settings.register_profile("untimed", deadline=None)  # how busy the machine is says nothing about the code
settings.load_profile("untimed")


class OneProcessForEachControlPlane(LoadScopeScheduling):
    """A scheduler of `pytest -n`: one process runs all tests of a file, or of a folder that shares a control plane.

    Not by `--dist loadgroup`: pytest-xdist 3.8.0 writes the groups where pytest 9.2 does not read them.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = PurePath(nodeid.partition("::")[0])
        return str(file.parent if file.parent.name in ("chaos", "cluster") else file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Return the scheduler for `-n`."""
    return OneProcessForEachControlPlane(config, log)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Start one real S3 server for all tests that need one."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """Put the S3 server's credentials into the environment of the test."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_storage.open_client.cache_clear()  # it has read another test's credentials
    yield s3_server
    s3_storage.open_client.cache_clear()
