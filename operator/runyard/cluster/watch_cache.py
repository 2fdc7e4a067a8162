"""What the watches last said of runs, their Jobs and their Pods: enough to see that there is nothing to do.

It may be behind: of what was made or has ended a moment ago the event is still under way. It comes, and the run is
looked at again. Only that something is gone may be missed for good, where it went while a watch was broken: so what is
known here counts for a while only, unless a read has confirmed it.
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
"""Less than the queue's shortest resync, so that of a run on which nothing happens all is read then."""


class Sightings:
    """The runs, Jobs and Pods that the watches have told of. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._runs: dict[Key, bytes] = {}
        """Compressed, as most are never looked at again."""
        self._owned: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        """Jobs and Pods by the run's uid and their own."""
        self._confirmed_s: dict[str, float] = {}
        """When of a run, by its uid, all was as it is here."""

    def note_run(self, manifest: Manifest, is_gone: bool) -> None:
        """A run has changed."""
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
        """A Job or Pod of a run has changed."""
        run_uid, uid = str(run_uid_of(manifest)), manifest["metadata"]["uid"]
        if not is_gone:
            self._owned[run_uid][uid] = _pack(manifest)
            return
        self._owned[run_uid].pop(uid, None)
        if not self._owned[run_uid]:
            del self._owned[run_uid]

    def confirm(self, run_uid: str) -> None:
        """All of a run has just been read."""
        if run_uid in self._confirmed_s:
            self._confirmed_s[run_uid] = self._clock()

    def recall(self, key: Key) -> tuple[Run, Observed] | None:
        """A run and what belongs to it as they were last seen; None where that is too long ago, or never was."""
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
