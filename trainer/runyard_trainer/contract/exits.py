"""The codes that a process ends with, the reasons that they stand for, and the errors that carry a code.

    error ─> ExitCode ─> Reason ─> PodReport ─> status.lastFailure, with the remedy of `runyard.decide.facts.remedies`

A reason enters here, and its remedy there: a test holds the two together.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Reason(StrEnum):
    """The reason for which a pod ended, in its report, in status and in Events."""

    COMPLETED = "Completed"
    ERROR = "Error"
    """Nothing more is known than that it failed."""
    SPEC_ERROR = "SpecError"
    DATA_ERROR = "DataError"
    STORAGE_ERROR = "StorageError"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    """The store has not answered, or not often enough: it may yet."""
    OUTPUT_TAKEN = "OutputTaken"
    GENERAL_LOSS_EXCEEDED = "GeneralLossExceeded"
    NON_FINITE = "NonFinite"
    GPUS_MISSING = "GpusMissing"
    GPU_OUT_OF_MEMORY = "GpuOutOfMemory"
    OOM_KILLED = "OOMKilled"
    """The kernel killed a process as the pod ran out of memory; Kubernetes uses the same word."""
    INTERRUPTED = "Interrupted"
    STALLED = "Stalled"


class ExitCode(IntEnum):
    """What the end of a pod means, with its reason. 64 to 78 other than 75 will not work again; any code not listed is
    worth a retry.
    """

    reason: Reason

    def __new__(cls, code: int, reason: Reason) -> ExitCode:
        """Make the member of this code."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.reason = reason
        return member

    OK = 0, Reason.COMPLETED
    """The whole run is finished and its export committed."""
    FAILED = 1, Reason.ERROR
    """Something broke that may not break again; counted against the failure budget."""
    SPEC_ERROR = 64, Reason.SPEC_ERROR
    """The recipe cannot be trained as written."""
    DATA_ERROR = 65, Reason.DATA_ERROR
    """The text, tokenizer or model read from storage is missing, broken or does not fit the recipe."""
    STORAGE_ERROR = 66, Reason.STORAGE_ERROR
    """Storage refuses for good: no such bucket, wrong credentials, no right to write, no conditional writes."""
    OUTPUT_TAKEN = 67, Reason.OUTPUT_TAKEN
    """Another run owns the output."""
    FORGETTING = 69, Reason.GENERAL_LOSS_EXCEEDED
    """The model forgot more than the recipe allows."""
    NON_FINITE = 70, Reason.NON_FINITE
    """The loss or gradient was not finite too many times in a row."""
    GPUS_MISSING = 71, Reason.GPUS_MISSING
    """The run asks for GPUs, and torch sees fewer than the node has ranks."""
    INTERRUPTED = 75, Reason.INTERRUPTED
    """Asked to stop, or lost a peer or the lease on the output; run the next attempt."""
    STALLED = 79, Reason.STALLED
    """No step ended for too long; the stacks of every rank are on the store. Worth a retry."""


FATAL_EXIT_CODES = frozenset(range(64, 79)) - {int(ExitCode.INTERRUPTED)}
"""A pod that ends with one of these will end so again, those included that a newer trainer may add."""


def find_reason(exit_code: int | None) -> Reason | None:
    """Return the reason that an exit code stands for; None where the code is none of the trainer's."""
    return next((code.reason for code in ExitCode if code == exit_code), None)


class UserError(Exception):
    """A mistake that a person can mend: the message says what is wrong, where, and what to do, without a traceback."""

    def __init__(self, message: str, code: ExitCode = ExitCode.SPEC_ERROR) -> None:
        super().__init__(message)
        self.code = code


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The attempt ends early but the run goes on: the process exits with `ExitCode.INTERRUPTED`."""
