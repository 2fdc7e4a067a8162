"""What the API server has stored, version by version, and the promises that all of it has to keep.

Versions come by watches that go past the proxies. Resource versions are etcd's: they order the versions of all kinds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.api import Manifest
from tests.chaos.script import Outcome

ATTEMPT = "runyard.dev/attempt"
COUNTERS = ("failures", "disruptions")
ENDS = ("Complete", "SuccessCriteriaMet", "Failed", "FailureTarget")


@dataclass
class Record:
    """One namespace with one run in it."""

    runs: list[Manifest] = field(default_factory=list)
    jobs: dict[str, list[Manifest]] = field(default_factory=dict)
    """First version of every Job that there was, by name."""
    present: dict[str, Manifest] = field(default_factory=dict)
    """Jobs as they are, by uid."""
    pods: dict[str, Manifest] = field(default_factory=dict)
    """Pods as they are, by uid."""
    newest: dict[str, int] = field(default_factory=dict)
    """The last version that was seen of each object, by uid."""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def see(self, plural: str, kind: str, found: Manifest) -> None:
        """Take an event of a watch."""
        uid = found["metadata"]["uid"]
        self.newest[uid] = version_of(found)
        if plural == "trainingruns":
            self.runs.append(found)
        else:
            present = self.present if plural == "jobs" else self.pods
            if plural == "jobs" and kind == "ADDED":
                self.jobs.setdefault(found["metadata"]["name"], []).append(found)
            if kind == "DELETED":
                present.pop(uid, None)
            else:
                present[uid] = found
        async with self._changed:
            self._changed.notify_all()

    @property
    def status(self) -> dict[str, Any]:
        return status_of(self.runs[-1]) if self.runs else {}

    async def wait_for(self, condition: Callable[[Record], object], what: str, deadline_s: float) -> None:
        """Wait until a condition holds. Raises AssertionError."""
        try:
            async with asyncio.timeout(deadline_s), self._changed:
                await self._changed.wait_for(lambda: condition(self))
        except TimeoutError:
            raise AssertionError(f"not {what} in {deadline_s:.0f} s; {self.status}") from None

    def has_seen(self, stored: Manifest) -> bool:
        """Return whether this version of an object, or a later one, was seen."""
        return self.newest.get(stored["metadata"]["uid"], 0) >= version_of(stored)

    def is_over(self) -> bool:
        """Return whether the run has an end, and nothing of it would go on."""
        return is_finished(self.status) and not any(is_live(job) for job in self.present.values())

    # ------------------------------------------------------------------------------------------------- what has to hold

    def check(self) -> None:
        """Check all promises. Raises AssertionError."""
        for name, versions in self.jobs.items():
            is_prepare = ATTEMPT not in versions[0]["metadata"]["labels"]
            assert is_prepare or len(versions) == 1, f"{len(versions)} Jobs named {name}: two for one attempt"
        for name, [job] in self._train_jobs():
            self._check_start(name, job)
        for before, after in zip(self.runs, self.runs[1:], strict=False):
            check_step(status_of(before), status_of(after))

    def _check_start(self, name: str, job: Manifest) -> None:
        """Check that it was made from a stored settlement of the attempt before, and not for a run that was over."""
        born, attempt = version_of(job), int(job["metadata"]["labels"][ATTEMPT])
        stored = [status_of(run) for run in self.runs if version_of(run) < born]
        assert stored, f"{name} was made before any status was"
        assert stored[-1].get("endedAttempt", 0) == attempt - 1, f"{name} was made although {stored[-1]}"
        assert not is_finished(stored[-1]), f"{name} was made for a finished run"

    def _train_jobs(self) -> list[tuple[str, list[Manifest]]]:
        return [(name, jobs) for name, jobs in self.jobs.items() if ATTEMPT in jobs[0]["metadata"]["labels"]]

    def check_outcome(self, want: Outcome) -> None:
        """Check that the run has come to where the oracle says."""
        status = self.status
        kind = "Succeeded" if want.succeeds else "Failed"
        assert condition_of(status, kind) == ("True", want.reason), status
        assert len(self._train_jobs()) == want.attempts, sorted(self.jobs)
        got = {name: status.get(name, 0) for name in ("attempt", "endedAttempt")}
        assert got == {"attempt": want.attempts, "endedAttempt": want.attempts}, status
        counted = {name: status.get("restarts", {}).get(name, 0) for name in (*COUNTERS, "failuresSinceCheckpoint")}
        assert counted == {
            "failures": want.failures,
            "disruptions": want.disruptions,
            "failuresSinceCheckpoint": want.failures_since_checkpoint,
        }, status
        assert (status.get("checkpoint") or {}).get("step") == want.checkpoint, status


def check_step(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Check one stored status against the next: an end is for good, and an attempt's end is counted once."""
    if is_finished(before):
        assert after == before, "a finished run's status has changed"
    settled = after.get("endedAttempt", 0) - before.get("endedAttempt", 0)
    counted = sum(after.get("restarts", {}).get(name, 0) - before.get("restarts", {}).get(name, 0) for name in COUNTERS)
    assert 0 <= counted <= settled <= 1, f"counted {counted} ends of {settled}: {before} -> {after}"
    assert after.get("attempt", 0) >= before.get("attempt", 0)


def status_of(run: Manifest) -> dict[str, Any]:
    status: dict[str, Any] = run.get("status", {})
    return status


def version_of(found: Manifest) -> int:
    return int(found["metadata"]["resourceVersion"])


def condition_of(status: dict[str, Any], kind: str) -> tuple[str, str] | None:
    found = (each for each in status.get("conditions", []) if each["type"] == kind)
    return next(((each["status"], each["reason"]) for each in found), None)


def holds(status: dict[str, Any], kind: str) -> bool:
    found = condition_of(status, kind)
    return found is not None and found[0] == "True"


def is_finished(status: dict[str, Any]) -> bool:
    return holds(status, "Succeeded") or holds(status, "Failed")


def is_live(job: Manifest) -> bool:
    """Return whether it runs pods, or would."""
    ends = {each["type"] for each in job.get("status", {}).get("conditions") or [] if each["status"] == "True"}
    return "deletionTimestamp" not in job["metadata"] and not ends & set(ENDS)
