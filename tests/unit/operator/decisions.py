"""What the tests of the rules share: deciding for one run, and reading what was decided."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from runyard.api.trainingrun import Condition, ConditionType, Phase
from runyard.decide.manifests import build_config_map, resolve_recipe
from runyard.decide.plan import plan
from runyard.decide.values import Create, Delete, Observed, Plan, Run

from tests.builders import NOW, SETTINGS, make_run, make_spec, prepared_status

CONFIG_MAP = build_config_map(make_run(), resolve_recipe(make_run(), make_spec(), SETTINGS))


def decide(run: Run, *, now: datetime = NOW, **observed: Any) -> Plan:
    observed = {name: tuple(value) if isinstance(value, list) else value for name, value in observed.items()}
    return plan(run, Observed(**observed), SETTINGS, now)


def condition(planned: Plan, kind: ConditionType) -> Condition:
    return next(condition for condition in planned.status.conditions if condition.type == kind)


def holding(planned: Plan) -> set[str]:
    return {condition.type for condition in planned.status.conditions if condition.status == "True"}


def message_of(planned: Plan) -> str:
    return condition(planned, ConditionType.READY).message


def created(planned: Plan) -> list[str]:
    """The Jobs."""
    manifests = [action.manifest for action in planned.actions if isinstance(action, Create)]
    return [manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "Job"]


def deleted(planned: Plan) -> list[str]:
    return [action.name for action in planned.actions if isinstance(action, Delete)]


def attempt_run(**status: Any) -> Run:
    return make_run(prepared_status(**({"phase": Phase.RUNNING, "attempt": 1} | status)))
