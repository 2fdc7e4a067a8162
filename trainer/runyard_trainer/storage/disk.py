"""Recognise that the node's disk is full."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from runyard_trainer.contract.exits import ExitCode, UserError


@contextmanager
def explain_full_disk(what: str, path: object) -> Iterator[None]:
    """Turn a failure for want of disk space into a UserError: the disk is too full to `what` in `path`.

    The system's ENOSPC may lie deep in the chain of errors: torch raises `unexpected pos`, safetensors a text.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if getattr(cause, "errno", None) == errno.ENOSPC or f"(os error {errno.ENOSPC})" in str(cause):
                raise UserError(
                    f"the node's disk is too full to {what} in {path}: give the pods more ephemeral storage, or train "
                    "on more nodes",
                    ExitCode.FAILED,
                ) from error
            cause = cause.__context__
        raise
