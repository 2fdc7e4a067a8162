"""Read and swap head.json, which alone says how far a run is, and fences its attempts from each other.

    claim    an attempt writes the head with epoch + 1; from then on no older attempt can write it
    commit   a checkpoint whose files and manifest lie on the store becomes the newest, in one swap
    finish   the result is set in one swap, once the export is uploaded

Every swap is a write with If-Match on the etag last seen. Where it is refused, a newer attempt has written the head and
this one must stop (`Interrupted`), unless the head is what was just sent: then the answer was lost and the request was
repeated.
"""

from __future__ import annotations

import logging

from pydantic import ValidationError

from runyard_trainer.context import RunContext, World
from runyard_trainer.contract.exits import ExitCode, Interrupted, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Report, Result
from runyard_trainer.ranks.distributed import run_on_rank_0
from runyard_trainer.storage.base import Blob, Location, NotFound, PreconditionFailed

HEAD_NAME = "head.json"
_MAX_CLAIMS = 16

_log = logging.getLogger(__name__)


class CheckpointEntry(Report):
    """A committed checkpoint, as head.json names it."""

    step: int
    """Optimizer steps it holds."""
    manifest: str
    """Key of its manifest, relative to the output."""
    sha256: str
    """sha256 of the manifest."""
    time: str
    """When it was committed, RFC 3339 UTC."""


class HeadState(Report):
    """The content of head.json."""

    epoch: int
    """Number of the claim: each one raises it."""
    attempt: int
    """The attempt that claimed it."""
    uid: str
    """UID of the run it belongs to."""
    checkpoint: CheckpointEntry | None = None
    """The newest checkpoint."""
    previous: tuple[CheckpointEntry, ...] = ()
    """Older checkpoints that are kept, newest first."""
    result: Result | None = None
    """Set once the run is finished."""

    @property
    def entries(self) -> tuple[CheckpointEntry, ...]:
        """All checkpoints, newest first."""
        return (self.checkpoint, *self.previous) if self.checkpoint else ()


class Head:
    """A claimed head.json. Rank 0 has it; the other ranks have none."""

    def __init__(self, location: Location, state: HeadState, blob: Blob, *, is_fenced: bool) -> None:
        self._location = location
        self._blob = blob
        self._is_fenced = is_fenced
        self.state = state

    @classmethod
    def claim(
        cls,
        output: Location,
        uid: str,
        attempt: int,
        *,
        take_over: bool = False,
        fencing: str = "conditional-writes",
    ) -> Head:
        """Take the head for this attempt.

        Args:
            output: where `output.uri` lies; head.json lies below it.
            uid: UID of the run.
            attempt: number of the attempt; it succeeds an equal or lower one, and yields to a higher one.
            take_over: continue from what another run has left there. Its result is dropped, its checkpoints are kept.
            fencing: "conditional-writes", or "none" for a store without them.

        Raises:
            Interrupted: a newer attempt has the head.
            UserError: OUTPUT_TAKEN: another run has it; DATA_ERROR: it cannot be read.
        """
        location = output / HEAD_NAME
        is_fenced = fencing != "none"
        for _ in range(_MAX_CLAIMS):
            found = _read(location)
            state = _succeed(found, uid, attempt, location, take_over=take_over)
            try:
                blob = _put(location, state, found, is_fenced=is_fenced)
            except (PreconditionFailed, NotFound):
                continue
            _log.info("claimed %s: attempt %d, epoch %d", location, attempt, state.epoch)
            return cls(location, state, blob, is_fenced=is_fenced)
        raise Interrupted(f"{location} changed {_MAX_CLAIMS} times while attempt {attempt} tried to claim it")

    @property
    def epoch(self) -> int:
        """Number of this claim: larger than that of every earlier one."""
        return self.state.epoch

    @property
    def checkpoint(self) -> CheckpointEntry | None:
        """The newest committed checkpoint."""
        return self.state.checkpoint

    @property
    def result(self) -> Result | None:
        """The result of a run that is finished already; None where it is not."""
        return self.state.result

    def commit(self, entry: CheckpointEntry, previous: tuple[CheckpointEntry, ...] = ()) -> None:
        """Make `entry` the newest checkpoint, and `previous` (newest first) the older ones that stay.

        Raises:
            Interrupted: a newer attempt has taken over; nothing is changed.
        """
        self._swap(self.state.model_copy(update={"checkpoint": entry, "previous": previous}))

    def finish(self, result: Result) -> None:
        """Set the result, which makes the run finished; raise as `commit` does."""
        self._swap(self.state.model_copy(update={"result": result}))

    def _swap(self, state: HeadState) -> None:
        if not self._is_fenced:
            self._expect(self._blob.data)
        try:
            self._blob = _put(self._location, state, self._blob, is_fenced=self._is_fenced)
        except (PreconditionFailed, NotFound):
            self._blob = self._expect(_encode(state))
        self.state = state

    def _expect(self, data: bytes) -> Blob:
        """Return what the head is now, if it is `data`; raise Interrupted otherwise."""
        found = _read(self._location)
        if found is not None and found.data == data:
            return found
        now = "it is gone" if found is None else _describe(_decode(found, self._location))
        raise Interrupted(f"{self._location} was written by someone else, so attempt {self.state.attempt} stops: {now}")


def _read(location: Location) -> Blob | None:
    try:
        return location.get()
    except NotFound:
        return None


def _put(location: Location, state: HeadState, found: Blob | None, *, is_fenced: bool) -> Blob:
    data = _encode(state)
    if not is_fenced:
        return Blob(data, location.put(data))
    if found is None:
        return Blob(data, location.put(data, if_none_match=True))
    return Blob(data, location.put(data, if_match=found.etag))


def _succeed(found: Blob | None, uid: str, attempt: int, location: Location, *, take_over: bool) -> HeadState:
    """Build the head that this attempt claims."""
    if found is None:
        return HeadState(epoch=1, attempt=attempt, uid=uid)
    state = _decode(found, location)
    claimed = state.model_copy(update={"epoch": state.epoch + 1, "attempt": attempt, "uid": uid})
    if state.uid != uid:
        if not take_over:
            raise UserError(
                f"output.uri: {location.parent} belongs to another run (UID {state.uid}). Choose another output, or "
                "set output.takeOver: true to continue from what lies there",
                ExitCode.OUTPUT_TAKEN,
            )
        return claimed.model_copy(update={"result": None})
    if state.attempt > attempt:
        raise Interrupted(f"attempt {state.attempt} has taken over from attempt {attempt}: {location}")
    return claimed


def _encode(state: HeadState) -> bytes:
    return state.model_dump_json(by_alias=True, indent=1).encode()


def _decode(blob: Blob, location: Location) -> HeadState:
    try:
        return HeadState.model_validate_json(blob.data)
    except ValidationError as error:
        raise UserError(
            f"{location} is not what this version of the trainer writes: {error.errors()[0]['msg']}. "
            "Restore it, or choose another output",
            ExitCode.DATA_ERROR,
        ) from error


def _describe(state: HeadState) -> str:
    return f"attempt {state.attempt} of run {state.uid} has it, with epoch {state.epoch}"


def claim_head(output: Location, recipe: Recipe, context: RunContext) -> tuple[Head | None, Result | None]:
    """Claim the head on rank 0; return it there (None on other ranks), and the result of a run that is finished."""
    claimed: list[Head] = []

    def claim() -> Result | None:
        take_over, fencing = recipe.output.take_over, recipe.storage.fencing
        head = Head.claim(output, context.run_uid, context.attempt, take_over=take_over, fencing=fencing)
        claimed.append(head)
        return head.result

    result = run_on_rank_0(claim, context.world)
    return (claimed[0] if claimed else None), result


def finish_head(head: Head | None, result: Result, world: World) -> None:
    """Write on rank 0 that the run is finished; no rank returns before that is written."""

    def finish() -> None:
        assert head is not None, "rank 0 has claimed it"
        head.finish(result)

    run_on_rank_0(finish, world)
