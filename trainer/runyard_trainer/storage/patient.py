"""Wait for a store that does not answer: an outage of minutes must not cost a run its attempts.

For training, whose store has answered before. `prepare` fails at once: a store that has never answered probably has
another name than the recipe says, and whoever wrote the recipe wants to hear of it now.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from runyard_trainer.storage.base import Blob, Location, ObjectInfo, ObjectStore, StorageUnavailable

PATIENCE_S = 900.0
"""How long to wait before it is an error."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


def be_patient(location: Location) -> Location:
    """Return the same location on a store that waits in every operation."""
    store = location.store
    return location if isinstance(store, PatientStore) else Location(PatientStore(store), location.prefix)


@dataclass(frozen=True)
class PatientStore:
    """A store that repeats every operation for which `store` is unavailable.

    A conditional write whose answer was lost is repeated too, and then refused: the caller hears that someone else has
    written the object and has to look whether it was itself, as `checkpoints.head` does.
    """

    store: ObjectStore

    @property
    def uri(self) -> str:
        """See `ObjectStore`."""
        return self.store.uri

    def get(self, key: str) -> Blob:
        """See `ObjectStore`."""
        return wait_for_store(partial(self.store.get, key))

    def get_range(self, key: str, start: int, num_bytes: int, if_match: str | None = None) -> bytes:
        """See `ObjectStore`."""
        return wait_for_store(partial(self.store.get_range, key, start, num_bytes, if_match))

    def head(self, key: str) -> ObjectInfo:
        """See `ObjectStore`."""
        return wait_for_store(partial(self.store.head, key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore`. Reads the whole listing first: a broken one can only start again."""
        return iter(wait_for_store(lambda: [*self.store.list(prefix)]))

    def put(self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False) -> str:
        """See `ObjectStore`."""
        return wait_for_store(partial(self.store.put, key, data, if_match=if_match, if_none_match=if_none_match))

    def upload_file(self, key: str, path: Path) -> None:
        """See `ObjectStore`."""
        wait_for_store(partial(self.store.upload_file, key, path))

    def download_file(self, key: str, path: Path) -> None:
        """See `ObjectStore`."""
        wait_for_store(partial(self.store.download_file, key, path))

    def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        wait_for_store(partial(self.store.delete, key))


def wait_for_store(work: Callable[[], T]) -> T:
    """Do `work` again until the store answers. Raises StorageUnavailable after `PATIENCE_S`."""
    return Retrying(
        retry=retry_if_exception_type(StorageUnavailable),
        wait=wait_random_exponential(multiplier=1, max=30),
        stop=stop_after_delay(PATIENCE_S),
        before_sleep=_log_retry,
        reraise=True,
    )(work)


def _log_retry(state: RetryCallState) -> None:
    assert state.outcome is not None
    assert state.next_action is not None
    _log.warning("%s; trying again in %.1f s", state.outcome.exception(), state.next_action.sleep)
