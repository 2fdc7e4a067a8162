"""What the CRD refuses besides wrong types: CEL rules, each with a message that says what to do.

The rules across fields are those that pydantic checks too: they stand on the models, as `CrossRule`. Written here is
what only the API server can check: how an object may change, and its name.
"""

from __future__ import annotations

from typing import Any

from pydantic.alias_generators import to_camel
from runyard_trainer.contract.base import CrossRule, Model, iterate_models

from runyard.api.trainingrun import MAX_NAME_LENGTH, Compute, TrainingRunSpec

Rule = dict[str, str]

MUTABLE_WHILE_SUSPENDED = ("nodes", "minNodes")
"""Of compute."""

MUTABLE_FIELDS = ("suspend", "limits", "ttlSecondsAfterFinished", "prepare")


def build_root_rules() -> list[Rule]:
    """Return CEL rules on metadata.name, and on what the status says: only the root's can see these."""
    return [
        {
            "rule": "self.spec.prepare == oldSelf.spec.prepare || !has(self.status) || !has(self.status.conditions) || "
            "!self.status.conditions.exists(each, each.type in ['Prepared', 'Failed'] && each.status == 'True')",
            "message": "spec.prepare can change only until preparation has ended: to prepare anew, delete the run and "
            "create another with output.takeOver: true",
            "fieldPath": ".spec.prepare",
        },
        {
            "rule": f"self.metadata.name.size() <= {MAX_NAME_LENGTH}",
            "message": f"metadata.name may have at most {MAX_NAME_LENGTH} characters: the names of the run's Jobs "
            "and pods are made from it; choose a shorter one",
        },
        {
            "rule": "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "message": "metadata.name must begin with a letter and have no dots, as the host names of the run's pods "
            "are made from it: use lower-case letters, digits and '-'",
        },
        {
            "rule": "!has(self.spec.model.run) || self.spec.model.run.name != self.metadata.name",
            "message": "spec.model.run.name is this run itself, which would wait for ever: name another run",
        },
    ]


def build_change_rules() -> dict[str, list[Rule]]:
    """Return CEL rules on how a spec may change, by the path below spec that they stand on."""
    fixed = [field for field in _aliases(TrainingRunSpec) if field not in (*MUTABLE_FIELDS, "compute")]
    fixed_compute = [field for field in _aliases(Compute) if field not in MUTABLE_WHILE_SUSPENDED]
    return {
        "": [
            *(_immutable("", field) for field in fixed),
            *(_immutable_unless_suspended(field) for field in MUTABLE_WHILE_SUSPENDED),
        ],
        "compute": [_immutable("compute.", field) for field in fixed_compute],
    }


def build_cross_rules(spec: type[Model]) -> dict[str, list[Rule]]:
    """Return the rules across fields of this model and those below it as CEL, by the path that they stand on."""
    return {
        path: [to_cel_rule(rule) for rule in model.cross_rules]
        for path, model in iterate_models(spec)
        if model.cross_rules
    }


def to_cel_rule(rule: CrossRule[Any]) -> Rule:
    """Return the rule as the CRD has it."""
    field_path = {"fieldPath": f".{rule.path}"} if rule.path else {}
    return {"rule": rule.cel, "message": rule.message, **field_path}


def _immutable(parent: str, field: str) -> Rule:
    exceptions = ", ".join((*MUTABLE_FIELDS, *(f"compute.{name}" for name in MUTABLE_WHILE_SUSPENDED)))
    return {
        "rule": _is_unchanged("", field),
        "message": f"spec.{parent}{field} cannot change once the run exists (only {exceptions} can): delete the run "
        "and create another",
        "fieldPath": f".{field}",
    }


def _immutable_unless_suspended(field: str) -> Rule:
    return {
        "rule": f"oldSelf.suspend || ({_is_unchanged('compute.', field)})",
        "message": f"spec.compute.{field} can change only while the run is suspended: set spec.suspend first",
        "fieldPath": f".compute.{field}",
    }


def _is_unchanged(parent: str, field: str) -> str:
    """Return CEL for a field that is as it was, also where it may be absent."""
    new, old = f"self.{parent}{field}", f"oldSelf.{parent}{field}"
    return f"has({new}) == has({old}) && (!has({new}) || {new} == {old})"


def _aliases(model: type[Model]) -> list[str]:
    return [field.alias or to_camel(name) for name, field in model.model_fields.items()]
