"""The ledger of a budget, and what follows from it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from pydantic import ValidationError
from runyard.api.gpubudget import GPUBudgetSpec, GPUBudgetStatus, LabelSelector
from runyard.api.trainingrun import ConditionType, LastFailure
from runyard.decide import budgets
from runyard.decide.budgets import Ledger, Spent
from runyard.decide.values import Event

from tests.builders import at, make_run, prepared_status, recovering_status
from tests.unit.operator.decisions import condition, created, decide

TODAY = date(2026, 1, 31)
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
TEAM = frozenset({"team-a"})


def spec(**fields: object) -> GPUBudgetSpec:
    return GPUBudgetSpec.model_validate({"gpuHours": 10, **fields})


def test_a_budget_counts_from_when_it_is_there_and_then_all_of_a_new_run() -> None:
    ledger = budgets.select_namespaces(Ledger(), TEAM, {"old": Spent("team-a", 500), "idle": Spent("team-a", 0)})
    ledger = budgets.book(ledger, {"old": Spent("team-a", 560), "new": Spent("team-a", 40)}, TODAY)
    assert budgets.sum_up(ledger, spec(), TODAY) == {"team-a": 100}


def test_what_is_booked_again_or_from_an_older_view_adds_nothing() -> None:
    seen = {"run": Spent("team-a", 100)}
    once = budgets.book(Ledger(TEAM), seen, TODAY)
    assert budgets.book(once, seen, TODAY) == once
    assert budgets.book(once, {"run": Spent("team-a", 60)}, TODAY + timedelta(1)) == once


def test_what_a_deleted_run_has_spent_stays_until_it_is_out_of_the_window() -> None:
    ledger = budgets.book(Ledger(TEAM), {"run": Spent("team-a", 100)}, TODAY)
    last_day = TODAY + timedelta(29)
    closed = budgets.close(ledger, ["run"], spec(), TODAY)
    assert budgets.book(closed, {"run": Spent("team-a", 100)}, last_day) == closed
    assert budgets.close(closed, [], spec(), last_day) == closed
    assert budgets.sum_up(closed, spec(), last_day) == {"team-a": 100}
    assert budgets.sum_up(closed, spec(), last_day + timedelta(1)) == {}
    assert budgets.close(closed, [], spec(), last_day + timedelta(1)) == Ledger(TEAM)


def test_a_deleted_run_is_known_for_two_days_however_short_the_window() -> None:
    ledger = budgets.close(budgets.book(Ledger(TEAM), {"run": Spent("team-a", 9)}, TODAY), ["run"], spec(), TODAY)
    short = spec(windowDays=1)
    assert budgets.close(ledger, [], short, TODAY + timedelta(2)).runs == {"run": 9}
    assert budgets.close(ledger, [], short, TODAY + timedelta(3)).runs == {}


def test_runs_of_other_namespaces_are_not_counted_and_those_that_are_no_longer_selected_not_shown() -> None:
    ledger = budgets.book(Ledger(TEAM), {"ours": Spent("team-a", 100), "theirs": Spent("team-b", 7)}, TODAY)
    assert budgets.sum_up(ledger, spec(), TODAY) == {"team-a": 100}
    assert budgets.sum_up(budgets.select_namespaces(ledger, frozenset({"team-b"}), {}), spec(), TODAY) == {}


def test_a_ledger_is_read_as_it_was_written() -> None:
    ledger = budgets.book(Ledger(TEAM), {"run": Spent("team-a", 100)}, TODAY)
    assert budgets.parse_ledger(budgets.format_ledger(ledger)) == ledger


@pytest.mark.parametrize(
    ("selector", "is_selected"),
    [
        ({}, True),
        ({"matchLabels": {"team": "a"}}, True),
        ({"matchLabels": {"team": "a", "env": "test"}}, False),
        ({"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["a"]}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"team": "a"}, "matchExpressions": [{"key": "env", "operator": "Exists"}]}, False),
    ],
)
def test_a_selector_selects_as_kubernetes_does(selector: dict[str, object], is_selected: bool) -> None:
    assert budgets.matches(LabelSelector.model_validate(selector), {"team": "a"}) is is_selected


@pytest.mark.parametrize(("operator", "values"), [("In", []), ("Exists", ["a"])])
def test_a_selector_that_makes_no_sense_is_refused(operator: str, values: list[str]) -> None:
    with pytest.raises(ValidationError, match="values are needed for In and NotIn"):
        LabelSelector.model_validate({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]})


def test_the_status_has_hours_and_says_when_they_are_used_up() -> None:
    used = {"team-a": 7200, "team-b": 32400}
    within = budgets.build_status(spec(gpuHours=12), used, GPUBudgetStatus(), 1, NOW)
    assert (within.used, within.remaining) == ("11.00", "1.00")
    assert [(each.name, each.used) for each in within.namespaces] == [("team-b", "9.00"), ("team-a", "2.00")]
    assert (within.conditions[0].type, within.conditions[0].status) == ("Exceeded", "False")
    above = budgets.build_status(spec(action="Block"), used, within, 2, NOW + timedelta(hours=1))
    assert (above.remaining, above.conditions[0].status) == ("0.00", "True")
    words = "11.00 of 10 GPU-hours of the last 30 days are used; no further run starts"
    assert above.conditions[0].message == words
    assert above.conditions[0].last_transition_time == "2026-01-31T13:00:00Z"
    assert above.conditions[1].last_transition_time == "2026-01-31T12:00:00Z"
    assert {each.observed_generation for each in above.conditions} == {2}
    assert budgets.build_event(within, above) == (Event("Warning", "UsedUp", words), "2026-01-31T13:00:00Z")
    assert budgets.build_event(above, above) is budgets.build_event(GPUBudgetStatus(), within) is None
    told = budgets.build_event(above, within)
    assert told is not None
    assert (told[0].type, told[0].reason) == ("Normal", "WithinBudget")
    words = budgets.describe_block("ml", spec(windowDays=1), used, "team-a")
    assert words.startswith("GPUBudget ml: 11.00 of 10 GPU-hours of today are used (2.00 by team-a); it starts when")


# ------------------------------------------------------------------------------------------------------------ the rule


def test_a_run_that_has_not_started_waits_for_its_budget_in_words() -> None:
    planned = decide(make_run(prepared_status()), budget_block="GPUBudget ml: all is used")
    assert (planned.status.phase, created(planned)) == ("Queued", [])
    assert planned.status.queue is not None
    assert (planned.status.queue.position, planned.status.queue.message) == (None, "GPUBudget ml: all is used")
    assert condition(planned, ConditionType.ADMITTED).reason == "BudgetUsedUp"


def test_a_run_that_has_started_goes_on_also_with_its_next_attempt() -> None:
    failure = LastFailure(attempt=1, reason="Error", message="", time="2026-01-31T12:00:00Z")
    planned = decide(
        make_run(recovering_status(last_failure=failure)), budget_block="GPUBudget ml: all is used", now=at(600)
    )
    assert created(planned) == ["cpt-a2"]


def test_preparing_costs_no_gpu_and_goes_on() -> None:
    assert decide(make_run(), budget_block="GPUBudget ml: all is used").status.phase == "Preparing"
