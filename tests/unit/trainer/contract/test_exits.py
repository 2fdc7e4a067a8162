"""Exit codes and their reasons."""

from __future__ import annotations

import pytest
from runyard_trainer.contract.exits import FATAL_EXIT_CODES, ExitCode, Reason, find_reason


@pytest.mark.parametrize("code", ExitCode)
def test_each_exit_code_is_a_number_with_a_reason_of_its_own(code: ExitCode) -> None:
    assert ExitCode(int(code)) is code
    assert find_reason(int(code)) is code.reason
    assert [other for other in ExitCode if other.reason is code.reason] == [code]


@pytest.mark.parametrize("code", [None, 2, 68, 137])
def test_a_code_that_is_not_the_trainers_has_no_reason(code: int | None) -> None:
    assert find_reason(code) is None


def test_an_attempt_that_was_interrupted_or_stalled_is_worth_another() -> None:
    assert {ExitCode.FAILED, ExitCode.INTERRUPTED, ExitCode.STALLED}.isdisjoint(FATAL_EXIT_CODES)
    assert ExitCode(min(FATAL_EXIT_CODES)).reason is Reason.SPEC_ERROR
