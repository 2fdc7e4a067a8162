"""The GPUBudget resource: GPU-hours that the runs of some namespaces may take in a while."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from runyard_trainer.contract.base import CrossRule, Model

from runyard.api.trainingrun import Condition, Status

BUDGET_KIND = "GPUBudget"
BUDGET_PLURAL = "gpubudgets"
MAX_BUDGET_NAME_LENGTH = 200
"""So that the name of its ledger is one."""

BudgetAction = Literal["Warn", "Block"]

_Text = Annotated[str, Field(max_length=316)]


class LabelSelectorRequirement(Model):
    """As metav1.LabelSelectorRequirement."""

    cross_rules = (
        CrossRule(
            path="",
            holds=lambda requirement: bool(requirement.values) == (requirement.operator in ("In", "NotIn")),
            cel="(self.operator in ['In', 'NotIn']) == (size(self.values) > 0)",
            message="values are needed for In and NotIn, and have no use for Exists and DoesNotExist",
        ),
    )

    key: _Text
    """The label's key."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label's value relates to `values`, or whether the label is there."""
    values: list[_Text] = Field(default_factory=list, max_length=100)
    """For In and NotIn."""


class LabelSelector(Model):
    """As metav1.LabelSelector: all of it must hold; an empty one selects everything."""

    match_labels: dict[str, str] = Field(default_factory=dict)
    """Labels with the values they must have."""
    match_expressions: list[LabelSelectorRequirement] = Field(default_factory=list, max_length=50)
    """Requirements that labels must meet."""


class GPUBudgetSpec(Model):
    """What some namespaces may spend."""

    namespace_selector: LabelSelector = LabelSelector()
    """Whose runs count, by the labels of namespaces; `kubernetes.io/metadata.name` is a namespace's name. Absent: all
    namespaces. The budget is for all of them together; make one for each where they should not share it."""
    gpu_hours: float = Field(gt=0, le=1e9)
    """What they may take in the window: what pods of training held, as in `status.gpuSeconds.allocated` of runs."""
    window_days: int = Field(default=30, ge=1, le=366)
    """The window: today and the days before it, UTC. What is older does not count any more."""
    action: BudgetAction = "Warn"
    """Once it is used up. `Warn`: the budget says so. `Block`: besides, no further run starts; those that have started
    go on, their next attempts too."""


class NamespaceUse(Status):
    """What one namespace has taken in the window."""

    name: str
    """The namespace's name."""
    used: str
    """GPU-hours."""


class GPUBudgetStatus(Status):
    """What was spent."""

    observed_generation: int | None = None
    """The metadata.generation that this is about."""
    used: str | None = None
    """GPU-hours in the window, all namespaces together. Counted from when the budget, or the namespace's label, was
    there."""
    remaining: str | None = None
    """GPU-hours that are left; never below 0."""
    namespaces: Annotated[list[NamespaceUse], Field(max_length=5000)] = Field(default_factory=list)
    """The namespaces that have taken any, the one that took most first."""
    conditions: Annotated[list[Condition], Field(max_length=10)] = Field(default_factory=list)
    """`Exceeded`: it is used up. `Ready`: what is said here is up to date."""
