"""The table of reasons: complete, and the only place where a reason is spelled besides its enum."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from runyard.api.reasons import ConditionReason, FailureReason
from runyard.decide.facts.remedies import RESPONSES, Blame, find_remedy, find_response
from runyard_trainer.contract.exits import FATAL_EXIT_CODES, ExitCode, Reason

ROOT = Path(__file__).parents[5]
PACKAGES = ("operator/runyard", "trainer/runyard_trainer")
TAKES_A_REASON = {"PodReport": None, "LastFailure": None, "Wait": 0, "Excess": 0, "Decision": 1, "fail": 1, "_wait": 1}
"""Functions with a parameter `reason`, and its place among the positional ones."""


def test_every_reason_has_a_row() -> None:
    assert set(RESPONSES) == {*Reason, *FailureReason}


def test_no_two_reasons_are_spelled_alike() -> None:
    assert len({reason.value for reason in RESPONSES}) == len(RESPONSES)
    assert len({reason.value for reason in ConditionReason}) == len(ConditionReason)


@pytest.mark.parametrize("code", [code for code in ExitCode if code in FATAL_EXIT_CODES])
def test_the_message_of_a_fatal_error_says_what_to_do(code: ExitCode) -> None:
    assert find_remedy(code.reason) == ""


def test_a_reason_that_a_newer_trainer_has_says_nothing_and_blames_the_node_it_failed_on() -> None:
    assert (find_remedy("FromTheFuture"), find_response("FromTheFuture").blames_node) == ("", Blame.IF_FAILED)


def literal_reasons(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TAKES_A_REASON):
            continue
        place = TAKES_A_REASON[node.func.id]
        given = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
        given += node.args[place : place + 1] if place is not None else []
        yield from (ast.unparse(value) for value in given if _has_text(value))


def _has_text(value: ast.expr) -> bool:
    branches = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
    return any(isinstance(branch, ast.Constant) for branch in branches)


def test_code_names_reasons_by_their_enum_so_that_a_typo_cannot_lose_a_remedy() -> None:
    sources = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert {name: found for name, source in sources.items() if (found := list(literal_reasons(source)))} == {}


def test_a_reason_that_is_spelled_out_is_found() -> None:
    assert list(literal_reasons('fail(run, "Staled", "it hangs")')) == ["'Staled'"]
    assert list(literal_reasons('PodReport(reason="Staled" if hangs else Reason.ERROR)')) != []
