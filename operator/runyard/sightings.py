"""What the watches last said of a run's Jobs and Pods: enough to see that there is nothing to do, and for no more.

It may be behind: of what was made or has ended a moment ago the event is still under way. It comes, and the run is
looked at again. Only that something is gone may be missed for good, where it went while a watch was broken: so what is
known here counts for a while only, unless a read has confirmed it.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Callable

from runyard.cluster import is_owned_by
from runyard.pods import run_uid_of
from runyard.world import Manifest, Observed, Run

COUNTS_FOR_S = 240.0
"""Less than the queue's resync, so that of a run on which nothing happens all is read then."""


class Sightings:
    """The Jobs and Pods of all runs. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        """By the run's uid and its own, compressed: most are never looked at again."""
        self._confirmed_s: dict[str, float] = {}

    def note(self, manifest: Manifest, is_gone: bool) -> None:
        """A Job or Pod has changed."""
        run_uid, uid = str(run_uid_of(manifest)), manifest["metadata"]["uid"]
        if not is_gone:
            self._confirmed_s.setdefault(run_uid, self._clock())
            self._seen[run_uid][uid] = zlib.compress(json.dumps(manifest).encode(), level=1)
            return
        self._seen[run_uid].pop(uid, None)
        if not self._seen[run_uid]:
            del self._seen[run_uid]
            self._confirmed_s.pop(run_uid, None)

    def confirm(self, run_uid: str) -> None:
        """All of a run has just been read."""
        if run_uid in self._confirmed_s:
            self._confirmed_s[run_uid] = self._clock()

    def recall(self, run: Run) -> Observed | None:
        """What belongs to a run as it was last seen; None where that is too long ago."""
        if self._clock() - self._confirmed_s.get(run.uid, self._clock()) > COUNTS_FOR_S:
            return None
        seen = [json.loads(zlib.decompress(each)) for each in self._seen.get(run.uid, {}).values()]
        jobs = tuple(each for each in seen if each["kind"] == "Job" and is_owned_by(each, run.uid))
        return Observed(jobs=jobs, pods=tuple(each for each in seen if each["kind"] == "Pod"))
