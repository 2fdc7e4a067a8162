"""How the end of a process of the trainer is put into words."""

from __future__ import annotations

import pytest
import torch
from runyard_trainer.__main__ import run_reported
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.reports import PodReport
from runyard_trainer.storage.base import StorageUnavailable

ENDS: dict[str, tuple[Exception, str, int]] = {
    "a mistake": (UserError("data.train[0]: no such object", ExitCode.DATA_ERROR), "DataError", 65),
    "a store that does not answer": (StorageUnavailable("s3 answers 503"), "StorageUnavailable", 1),
    "a GPU that is full": (torch.OutOfMemoryError("CUDA out of memory"), "GpuOutOfMemory", 1),
    "anything else": (ValueError("no"), "Error", 1),
}


@pytest.mark.parametrize("what", ENDS)
def test_what_ended_it_is_the_reason(what: str) -> None:
    error, reason, code = ENDS[what]

    def work() -> PodReport:
        raise error

    report = run_reported(work)
    assert (report.reason, report.exit_code) == (reason, code)
    assert str(error) in report.message
