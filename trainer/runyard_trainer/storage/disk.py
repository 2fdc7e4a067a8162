"""Say so where the node's disk is full."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from runyard_trainer.contract.exits import ExitCode, UserError


@contextmanager
def told_when_full(what: str, path: object) -> Iterator[None]:
    """Say in words that the disk is too full to do `what` in `path`.

    What the system said is somewhere down the chain: to torch it is `unexpected pos`, to safetensors a text.
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
