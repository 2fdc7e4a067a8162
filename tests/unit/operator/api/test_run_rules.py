"""The rules across fields, as pydantic checks them; tests/cluster/test_api.py asks the API server the same."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from runyard.api.crd.rules import build_cross_rules
from runyard.api.gpubudget import GPUBudgetSpec, LabelSelectorRequirement
from runyard.api.trainingrun import TrainingRunSpec
from runyard_trainer.contract.base import iterate_models

from tests.broken_rules import BROKEN, SMALLEST, Spec

RULES = [rule for _, model in iterate_models(TrainingRunSpec) for rule in model.cross_rules]


def refusal_of(spec: Spec) -> str:
    with pytest.raises(ValidationError) as refused:
        TrainingRunSpec.model_validate(SMALLEST | spec)
    assert refused.value.error_count() == 1
    return refused.value.errors()[0]["msg"].removeprefix("Value error, ")


@pytest.mark.parametrize("what", BROKEN)
def test_a_spec_that_breaks_one_rule_is_refused_by_it_and_its_neighbour_is_not(what: str) -> None:
    assert refusal_of(BROKEN[what].broken) in {rule.message for rule in RULES}
    TrainingRunSpec.model_validate(SMALLEST | BROKEN[what].kept)


def test_every_rule_has_a_spec_that_breaks_it() -> None:
    assert {refusal_of(case.broken) for case in BROKEN.values()} == {rule.message for rule in RULES}
    assert len({rule.message for rule in RULES}) == len(RULES)


def test_every_rule_is_in_the_crd_at_the_model_that_it_stands_on() -> None:
    in_crd = {(path, rule["message"]) for path, rules in build_cross_rules(TrainingRunSpec).items() for rule in rules}
    assert len(in_crd) == len(RULES)
    assert ("evaluation.tasks[]", "evaluation.tasks[] needs exactly one of preset, type") in in_crd


def test_a_requirement_of_a_budget_has_values_where_its_operator_takes_them() -> None:
    assert list(build_cross_rules(GPUBudgetSpec)) == ["namespaceSelector.matchExpressions[]"]
    LabelSelectorRequirement.model_validate({"key": "team", "operator": "Exists"})
    for wrong in ({"operator": "In"}, {"operator": "Exists", "values": ["a"]}):
        with pytest.raises(ValidationError, match="values are needed for In and NotIn"):
            LabelSelectorRequirement.model_validate({"key": "team", **wrong})
