"""The values that pass between the parts of the operator: what was observed, what to do. Frozen, no behaviour.

    Cluster.observe() -> Observed ─> plan(run, observed, settings, now) -> Plan ─> Cluster.apply(actions), one patch

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
    """The administrator's settings, the same for all runs. `main` reads them from the environment."""

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
    """How often a training run is asked for its progress; its status is written no more often while nothing else
    happens."""


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
    """The time of its creation, RFC 3339 UTC."""


@dataclass(frozen=True)
class Namespace:
    """The part of a namespace that an admission depends on, besides the run itself."""

    quotas: tuple[Manifest, ...] = ()
    """ResourceQuotas; where there are none, the rest is not read."""
    runs: tuple[Run, ...] = ()
    """All TrainingRuns."""
    jobs: tuple[Manifest, ...] = ()
    """The Jobs of these runs, for preparation and for attempts."""
    pods: tuple[Manifest, ...] = ()
    """The pods of these Jobs that were there before and after the quotas were read, so that the quotas count them."""
    priority_classes: tuple[Manifest, ...] | None = ()
    """Of the cluster; None where this operator may not read them: then all have the same priority."""


@dataclass(frozen=True)
class QueuePosition:
    """A run's position: how many Workloads of Kueue are ahead of it."""

    in_queue: int
    """In its LocalQueue."""
    in_cluster_queue: int
    """In the ClusterQueue behind that, which other LocalQueues may share."""


@dataclass(frozen=True)
class KueueView:
    """Kueue's view of a run while it holds it. A field that may not be read has its default."""

    workload: Manifest | None = None
    """The Workload of the run's place."""
    preemptor: str | None = None
    """Kind and name of what the run was last preempted for, where that is in its namespace."""
    position: QueuePosition | None = None
    """At most half a minute old."""
    priority_kinds: frozenset[str] | None = frozenset()
    """Which of PriorityClass and WorkloadPriorityClass exist with the name in queue.priorityClassName; read while the
    run has no place. None where this operator may not read them."""


@dataclass(frozen=True)
class Observed:
    """Everything that `plan` depends on, besides the run, the settings and the time."""

    jobs: tuple[Manifest, ...] = ()
    """Jobs that carry the run's UID label and are controlled by it."""
    pods: tuple[Manifest, ...] = ()
    """Pods that carry the run's UID label."""
    kueue: KueueView = KueueView()
    """Kueue's view of a run with `queue.name`."""
    source: Run | None = None
    """The run in `model.run`, while it is waited for; None where there is none of that name."""
    conflicts: tuple[str, ...] = ()
    """`Kind/name` of objects that hold a name this run needs but belong to someone else."""
    progress: Progress | None = None
    """The last answer of the live attempt's rank 0; None where there is none or it did not answer."""
    silent_since: datetime | None = None
    """Since when rank 0 of the live attempt has answered none of this process's requests."""
    budget_block: str | None = None
    """Why a GPUBudget lets no further run of the namespace start; None where none does."""
    namespace: Namespace | None = Namespace()
    """What the run shares its namespace's quotas with; None where it has not been read yet."""
    apply_errors: tuple[str, ...] = ()
    """What went wrong while the last plan was applied; status shows it."""


@dataclass(frozen=True)
class Create:
    """The action that creates an object, unless it is there. Names are deterministic: doing it twice makes one."""

    manifest: Manifest


@dataclass(frozen=True)
class Delete:
    """The action that deletes an object, and only as it was seen: uid and resourceVersion are preconditions."""

    kind: str
    name: str
    uid: str
    resource_version: str


@dataclass(frozen=True)
class PatchStatus:
    """The action that changes fields of an object's status, and only of the object as it was seen."""

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
    """The outcome of planning: what to do about a run now."""

    status: TrainingRunStatus
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_at: datetime | None = None
    """When to plan again even if nothing happens."""
    needs_namespace: bool = False
    """True where nothing can be decided without `Observed.namespace`: read it, and plan again."""


class Key(NamedTuple):
    """The namespace and name of a TrainingRun."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Decision:
    """A rule's decision; reason and message become those of the conditions."""

    phase: Phase
    reason: str
    message: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Other fields of status that change."""
    actions: tuple[Action, ...] = ()
    requeue_at: datetime | None = None
    is_stalled: bool = False
    """True where nothing goes on until a person acts."""
    needs_namespace: bool = False
    """As in `Plan`."""
