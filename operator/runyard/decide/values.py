"""The values that pass between the parts of the operator: what was observed, what is to be done. Frozen, no behaviour.

    cluster.observe() -> Observed ─> plan(run, observed, settings, now) -> Plan ─> cluster.apply(actions), one patch

Kubernetes objects stay plain JSON: typed models drop the fields they do not know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from runyard_trainer.contract.reports import Progress

from runyard.api.trainingrun import Phase, TrainingRunSpec, TrainingRunStatus

Manifest = dict[str, Any]
"""A Kubernetes object as plain JSON."""


@dataclass(frozen=True)
class Settings:
    """What the administrator decides, once, for all runs. Read from the environment by `main`."""

    trainer_image: str
    """Image of prepare and training pods where the run names none."""
    storage_endpoint: str | None = None
    storage_region: str = "us-east-1"
    storage_addressing: str = "virtual"
    storage_secret_name: str = "runyard-s3"  # noqa: S105 - the name of a Secret
    default_cpu: str = "1"
    """CPU of a training pod whose run asks for none."""
    default_memory: str = "4Gi"
    """Memory of a training pod whose run asks for none."""
    prepare_cpu: str = "1"
    """CPU of a preparing pod whose run asks for none."""
    prepare_memory: str = "4Gi"
    """Memory of a preparing pod whose run asks for none."""
    progress_interval_s: float = 5
    """How often a training run is asked how far it is, and its status written at most while nothing else happens."""


@dataclass(frozen=True)
class Run:
    """A TrainingRun as read from the API server."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    spec: TrainingRunSpec | None
    """None where the stored spec does not validate: `spec_error` says why."""
    status: TrainingRunStatus
    spec_error: str | None = None
    deleting: bool = False
    created: str = ""
    """When, RFC 3339 UTC."""


@dataclass(frozen=True)
class Namespace:
    """Everything that an admission depends on, besides the run itself."""

    quotas: tuple[Manifest, ...] = ()
    """ResourceQuotas; where there are none the rest is not looked at."""
    runs: tuple[Run, ...] = ()
    """All TrainingRuns."""
    jobs: tuple[Manifest, ...] = ()
    """Their Jobs, of preparation as of attempts."""
    pods: tuple[Manifest, ...] = ()
    """The pods of these that were there all the while that the quotas were read: none is counted that these miss."""
    priority_classes: tuple[Manifest, ...] | None = ()
    """Of the cluster; None where this operator may not read them: then all are equal."""


@dataclass(frozen=True)
class QueuePosition:
    """How many Workloads of Kueue are ahead of a run."""

    in_queue: int
    """In its LocalQueue."""
    in_cluster_queue: int
    """In the ClusterQueue behind that, which other LocalQueues may share."""


@dataclass(frozen=True)
class KueueView:
    """What Kueue says of a run while it holds it; as far as it is there, and may be asked."""

    workload: Manifest | None = None
    """The Workload of the run's place."""
    preemptor: str | None = None
    """Kind and name of what it has last been preempted for, where that is in the run's namespace."""
    position: QueuePosition | None = None
    """At most half a minute old."""
    priority_kinds: frozenset[str] | None = frozenset()
    """Which of PriorityClass and WorkloadPriorityClass there is with the name that queue.priorityClassName says; looked
    at while the run has no place. None where this operator may not look."""


@dataclass(frozen=True)
class Observed:
    """Everything `plan` may look at, besides the run and the time."""

    jobs: tuple[Manifest, ...] = ()
    """Jobs that carry the run's UID label and are controlled by it."""
    pods: tuple[Manifest, ...] = ()
    """Pods that carry the run's UID label."""
    kueue: KueueView = KueueView()
    """Of a run with `queue.name`."""
    source: Run | None = None
    """The run that `model.run` names, while it is waited for; None where there is none of that name."""
    conflicts: tuple[str, ...] = ()
    """`Kind/name` of objects that hold a name this run needs but belong to someone else."""
    progress: Progress | None = None
    """What rank 0 of the live attempt last answered; None where there is none or it did not answer."""
    silent_since: datetime | None = None
    """Since when rank 0 of the live attempt has been asked in vain, without a break, by this process."""
    budget_block: str | None = None
    """Why a GPUBudget lets no further run of the namespace start; None where none does."""
    namespace: Namespace | None = Namespace()
    """What the run shares its namespace's quotas with; None where nobody has looked yet."""
    apply_errors: tuple[str, ...] = ()
    """What went wrong while the last plan was applied: a fact that reaches status."""


@dataclass(frozen=True)
class Create:
    """Create an object, unless it is there. Its name is deterministic: creating it twice is one object."""

    manifest: Manifest


@dataclass(frozen=True)
class Delete:
    """Delete an object, and only the one that was seen: uid and resourceVersion are preconditions."""

    kind: str
    name: str
    uid: str
    resource_version: str


@dataclass(frozen=True)
class PatchStatus:
    """Change fields of an object's status, and only of the one that was seen."""

    kind: str
    name: str
    resource_version: str
    fields: dict[str, Any]


Action = Create | Delete | PatchStatus


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event to record after the status is written."""

    type: str
    """Normal or Warning."""
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """What is to be done about a run now."""

    status: TrainingRunStatus
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_at: datetime | None = None
    """When to look again even if nothing happens."""
    needs_namespace: bool = False
    """Nothing can be decided without `Observed.namespace`: look, and plan again."""


class Key(NamedTuple):
    """Names a TrainingRun."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Decision:
    """What a rule says; reason and message become conditions as they are."""

    phase: Phase
    reason: str
    message: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of status that change besides."""
    actions: tuple[Action, ...] = ()
    requeue_at: datetime | None = None
    is_stalled: bool = False
    """Nothing will go on until somebody acts."""
    needs_namespace: bool = False
    """See `Plan`."""
