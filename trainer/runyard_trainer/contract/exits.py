"""The codes that a process ends with, and the errors that carry one."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the end of a pod means. 64 to 78 other than 75 will not work again; any code not listed is worth a retry."""

    OK = 0
    """The whole run is finished and its export committed."""
    FAILED = 1
    """Something broke that may not break again; counted against the failure budget."""
    SPEC_ERROR = 64
    """The recipe cannot be trained as written."""
    DATA_ERROR = 65
    """The text, tokenizer or model read from storage is missing, broken or does not fit the recipe."""
    STORAGE_ERROR = 66
    """Storage refuses for good: no such bucket, wrong credentials, no right to write, no conditional writes."""
    OUTPUT_TAKEN = 67
    """Another run owns the output."""
    FORGETTING = 69
    """The model forgot more than the recipe allows."""
    NON_FINITE = 70
    """The loss or gradient was not finite too many times in a row."""
    GPUS_MISSING = 71
    """The run asks for GPUs, and torch sees fewer than the node has ranks."""
    INTERRUPTED = 75
    """Asked to stop, or lost a peer or the lease on the output; run the next attempt."""
    STALLED = 79
    """No step ended for too long; the stacks of every rank are on the store. Worth a retry."""

    @property
    def is_fatal(self) -> bool:
        """True where another attempt would end the same way."""
        return self in _REASONS and self not in (ExitCode.INTERRUPTED, ExitCode.STALLED)

    @property
    def reason(self) -> str:
        """The CamelCase reason that status and Events carry."""
        return _REASONS.get(self, "Error")


_REASONS = {
    ExitCode.SPEC_ERROR: "SpecError",
    ExitCode.DATA_ERROR: "DataError",
    ExitCode.STORAGE_ERROR: "StorageError",
    ExitCode.OUTPUT_TAKEN: "OutputTaken",
    ExitCode.FORGETTING: "GeneralLossExceeded",
    ExitCode.NON_FINITE: "NonFinite",
    ExitCode.GPUS_MISSING: "GpusMissing",
    ExitCode.INTERRUPTED: "Interrupted",
    ExitCode.STALLED: "Stalled",
}


class UserError(Exception):
    """A mistake that a person can mend: the message says what is wrong, where, and what to do, without a traceback."""

    def __init__(self, message: str, code: ExitCode = ExitCode.SPEC_ERROR) -> None:
        super().__init__(message)
        self.code = code


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The attempt ends early but the run goes on: the process exits with `ExitCode.INTERRUPTED`."""
