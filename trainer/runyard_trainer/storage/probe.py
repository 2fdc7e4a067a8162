"""Check that an output can be written, and that its store keeps conditional writes: fencing rests on them."""

from __future__ import annotations

import uuid

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.storage.base import Location, PreconditionFailed


def probe(location: Location, fencing: str = "conditional-writes") -> None:
    """Write, write conditionally, read and delete a small object below `location`.

    Raises:
        UserError: STORAGE_ERROR: one of these fails, or the store ignores the conditions of a write though `fencing`
            asks for them.
    """
    target = location / f".runyard-probe-{uuid.uuid4().hex}"
    target.put(b"first")
    try:
        if fencing == "conditional-writes":
            _check_conditional_writes(target)
        target.get()
    finally:
        target.delete()


def _check_conditional_writes(target: Location) -> None:
    etag = target.head().etag
    enforced = (
        _is_refused(target, if_none_match=True),
        _is_refused(target, if_match='"0123456789abcdef0123456789abcdef"'),
        not _is_refused(target, if_match=etag),
    )
    if not all(enforced):
        raise UserError(
            f"{target.store.uri}: this store does not keep conditional writes (If-Match, If-None-Match), so two "
            "attempts that overlap could overwrite each other. Use a store that does, or accept the risk with "
            "storage.fencing: none",
            ExitCode.STORAGE_ERROR,
        )


def _is_refused(target: Location, *, if_match: str | None = None, if_none_match: bool = False) -> bool:
    try:
        target.put(uuid.uuid4().bytes, if_match=if_match, if_none_match=if_none_match)
    except PreconditionFailed:
        return True
    return False
