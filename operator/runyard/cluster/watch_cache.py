"""A cache of runs, their Jobs and their Pods as the watches last reported them: enough to see that nothing is to do.

It may be behind, as the event of a change may still be under way; when it arrives, the run is reconciled again. Only a
deletion while a watch was broken may be missed for good. So an entry counts for a while only, unless a read has
confirmed it.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Callable

from runyard.cluster.objects import is_owned_by, parse_run
from runyard.decide.facts.pods import run_uid_of
from runyard.decide.values import Key, Manifest, Observed, Run

COUNTS_FOR_S = 240.0
"""Less than the queue's shortest resync, so that each resync of a run on which nothing happens reads it."""


class WatchCache:
    """The cached runs, Jobs and Pods. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._runs: dict[Key, bytes] = {}
        """Compressed, as most are never read again."""
        self._owned: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        """Jobs and Pods by the run's uid and their own."""
        self._confirmed_s: dict[str, float] = {}
        """When a run, by its uid, was last known to be as it is here."""

    def note_run(self, manifest: Manifest, is_gone: bool) -> None:
        """Note that a run has changed."""
        metadata = manifest["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        if is_gone:
            self._runs.pop(key, None)
            self._owned.pop(metadata["uid"], None)
            self._confirmed_s.pop(metadata["uid"], None)
            return
        self._confirmed_s.setdefault(metadata["uid"], self._clock())
        self._runs[key] = _pack(manifest)

    def note_owned(self, manifest: Manifest, is_gone: bool) -> None:
        """Note that a Job or Pod of a run has changed."""
        run_uid, uid = str(run_uid_of(manifest)), manifest["metadata"]["uid"]
        if not is_gone:
            self._owned[run_uid][uid] = _pack(manifest)
            return
        self._owned[run_uid].pop(uid, None)
        if not self._owned[run_uid]:
            del self._owned[run_uid]

    def confirm(self, run_uid: str) -> None:
        """Note that a run and all its Jobs and Pods have just been read."""
        if run_uid in self._confirmed_s:
            self._confirmed_s[run_uid] = self._clock()

    def find(self, key: Key) -> tuple[Run, Observed] | None:
        """Return a run and what belongs to it as last seen; None where it never was, or where that is too long ago."""
        packed = self._runs.get(key)
        if packed is None:
            return None
        run = parse_run(_unpack(packed))
        if self._clock() - self._confirmed_s[run.uid] > COUNTS_FOR_S:
            return None
        owned = [_unpack(each) for each in self._owned.get(run.uid, {}).values()]
        jobs = tuple(each for each in owned if each["kind"] == "Job" and is_owned_by(each, run.uid))
        return run, Observed(jobs=jobs, pods=tuple(each for each in owned if each["kind"] == "Pod"))


def _pack(manifest: Manifest) -> bytes:
    return zlib.compress(json.dumps(manifest).encode(), level=1)


def _unpack(packed: bytes) -> Manifest:
    manifest: Manifest = json.loads(zlib.decompress(packed))
    return manifest
