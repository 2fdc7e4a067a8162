"""The TrainingRun resource: its spec and status as pydantic models, and the names of labels and annotations.

The recipe half of the spec is `runyard_trainer.contract.recipe`; this adds how to run it. `api.crd` makes the CRD from
these models; nothing here has behaviour.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from runyard_trainer.contract.base import CrossRule, Model
from runyard_trainer.contract.objectives import Mode
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import CommittedCheckpoint, DataSummary, ModelFolder, Result

from runyard.api.run_rules import RUN_RULES

GROUP = "runyard.dev"
VERSION = "v1alpha1"
KIND = "TrainingRun"
PLURAL = "trainingruns"
API_VERSION = f"{GROUP}/{VERSION}"

MAX_NAME_LENGTH = 45
"""So that `<name>-a<attempt>-<index>` stays a DNS label of 63 characters."""

LABEL_RUN_UID = "runyard.dev/run-uid"
LABEL_RUN = "runyard.dev/run"
LABEL_ROLE = "runyard.dev/role"
LABEL_ATTEMPT = "runyard.dev/attempt"

ANNOTATION_ASKED = "runyard.dev/asked"
"""Annotation of a prepare Job: the run's `prepare` as it was when the Job was made."""

CONTAINER_NAME = "trainer"
"""The name of the trainer's container in a pod; a policy or webhook may have added others."""


class Role(StrEnum):
    """The purpose of a run's Job: the value of `LABEL_ROLE`."""

    PREPARE = "prepare"
    TRAIN = "train"
    PLACE = "place"
    """A Job that holds the run's place in a queue of Kueue; it has no pods."""


class Resources(Model):
    """CPU and memory of a pod; requests and limits alike."""

    cpu: str | None = Field(default=None, max_length=20, pattern=r"^[0-9]+(\.[0-9]+)?m?$")
    """CPUs, as Kubernetes writes them: "16" or "500m". Absent: the operator's default."""
    memory: str | None = Field(default=None, max_length=20, pattern=r"^[0-9]+(\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?$")
    """Memory, as Kubernetes writes it: 256Gi. Absent: the operator's default."""


class Compute(Model):
    """The pods of one attempt."""

    cross_rules = (
        CrossRule(
            path="minNodes",
            holds=lambda compute: compute.min_nodes is None or compute.min_nodes <= compute.nodes,
            cel="!has(self.minNodes) || self.minNodes <= self.nodes",
            message="compute.minNodes is more than compute.nodes: lower it, or leave it out",
        ),
    )

    nodes: int = Field(default=1, ge=1, le=1024)
    """Pods, each on its share of a node. May change while the run is suspended: the samples and their order stay."""
    min_nodes: int | None = Field(default=None, ge=1, le=1024)
    """The fewest pods to go on with where no more find room within recovery.startupTimeoutSeconds. The next attempt
    asks for all again. Absent: as many as `nodes`."""
    gpus_per_node: int = Field(default=1, ge=0, le=64)
    """GPUs of each pod. 0: train on CPUs."""
    gpu_resource_name: str = Field(default="nvidia.com/gpu", min_length=1, max_length=253)
    """What the cluster calls a GPU."""
    processes_per_node: int | None = Field(default=None, ge=1, le=64)
    """Ranks of each pod. Absent: one for each GPU, or one."""
    image: str | None = Field(default=None, min_length=1, max_length=512)
    """The trainer's image. Absent: the operator's default."""
    resources: Resources = Resources()
    """CPU and memory of each training pod."""
    shared_memory: str = Field(default="1Gi", max_length=20, pattern=r"^[0-9]+(\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?$")
    """Size of /dev/shm, counted as the pod's memory."""

    @property
    def processes(self) -> int:
        """Return the ranks of each pod."""
        return self.processes_per_node or max(1, self.gpus_per_node)


class Prepare(Model):
    """The pod that prepares the data, on CPUs."""

    resources: Resources = Resources()
    """Its CPU and memory. May change until it has ended: preparation then starts again."""


class Queue(Model):
    """In which order runs get quota."""

    name: str | None = Field(default=None, max_length=63, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    """A LocalQueue of Kueue in the run's namespace: Kueue decides when it starts, and may preempt it. Absent:
    the namespace's ResourceQuotas decide."""
    priority_class_name: str | None = Field(default=None, min_length=1, max_length=253)
    """A PriorityClass: runs of a higher value start first, and their pods have it. With `name` it may also be a
    WorkloadPriorityClass, by which Kueue goes first. Absent: the cluster's default."""


class Recovery(Model):
    """What happens when an attempt ends early."""

    max_failures: int = Field(default=3, ge=0, le=1000)
    """Attempts that may fail before the run does; counted anew whenever a newer checkpoint is committed."""
    max_disruptions: int = Field(default=20, ge=0, le=10_000)
    """Attempts that may end because their pods were evicted, deleted or interrupted."""
    startup_timeout_seconds: int = Field(default=900, ge=1, le=604_800)
    """Time for all pods of an attempt to start. After it they are given back, and asked for again after a pause."""
    stall_timeout_seconds: int = Field(default=600, ge=1, le=604_800)
    """Time for a step to end. After it every rank leaves its stacks below `stacks/` of the output."""
    on_stall: Literal["Restart", "Notify"] = "Restart"
    """What follows then: the next attempt, counted as a failure; or nothing but a warning."""
    termination_grace_period_seconds: int = Field(default=120, ge=1, le=3600)
    """Time that a pod has to save when it is told to stop."""


class Limits(Model):
    """What a run may take. At a limit it saves a checkpoint, stops and has failed."""

    max_gpu_hours: float | None = Field(default=None, gt=0, le=1e9)
    """GPU-hours that its pods may hold, all attempts together: `status.gpuSeconds.allocated`. Absent: no limit."""
    active_deadline_seconds: int | None = Field(default=None, ge=1, le=2_147_483_647)
    """Time from the start of the first attempt on; waiting for quota before it is free. Absent: no limit."""


class TrainingRunSpec(Recipe):
    """What to learn (the recipe), and how to run it."""

    cross_rules: ClassVar[tuple[CrossRule[Any], ...]] = (*Recipe.cross_rules, *RUN_RULES)

    compute: Compute
    """The pods of one attempt."""
    prepare: Prepare = Prepare()
    """The pod that prepares the data, on CPUs."""
    queue: Queue = Queue()
    """In which order runs get quota."""
    recovery: Recovery = Recovery()
    """What happens when an attempt ends early."""
    limits: Limits = Limits()
    """What the run may take."""
    suspend: bool = False
    """True: save a checkpoint and stop; false again: go on from there."""
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, le=2_147_483_647)
    """When a finished run is deleted from the cluster; what is on S3 stays. Absent: never."""

    def to_recipe(self) -> Recipe:
        """Return the half that the trainer reads."""
        return Recipe.model_validate(self.model_dump(include=set(Recipe.model_fields)))


# --------------------------------------------------------------------------------------------------------------- status


class Phase(StrEnum):
    """For people; conditions are the truth, and no code decides by this."""

    PENDING = "Pending"
    WAITING = "Waiting"
    PREPARING = "Preparing"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    RECOVERING = "Recovering"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Status(Model):
    """Base of status models: written by the operator alone; a newer operator's fields are passed over."""

    model_config = ConfigDict(extra="ignore")


class ConditionType(StrEnum):
    """kstatus reads Ready, Reconciling and Stalled; the rest are Runyard's own."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    PREPARED = "Prepared"
    ADMITTED = "Admitted"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Condition(Status):
    """A condition, as metav1.Condition."""

    type: Annotated[str, Field(max_length=316)]
    """CamelCase name."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: int | None = None
    """The metadata.generation that it was set for."""
    last_transition_time: str
    """When `status` last changed, RFC 3339 UTC."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """CamelCase reason."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """For people."""


class Restarts(Status):
    """Attempts that have ended early."""

    failures: int = 0
    """Because something broke, in the whole run."""
    disruptions: int = 0
    """Because pods were evicted, deleted or interrupted."""
    preemptions: int = 0
    """Because Kueue took the quota back, for a run of a higher priority or for another reason: no fault either."""
    startups: int = 0
    """Because not all pods had started in time: waiting is no fault, so no budget counts them."""
    failures_since_checkpoint: int = 0
    """Failures since the committed checkpoint last advanced: what `recovery.maxFailures` is held against."""


class RunProgress(Status):
    """How far the run is."""

    step: int = 0
    """Optimizer steps done."""
    total_steps: int = 0
    """Steps in the whole run."""
    tokens: int = 0
    """Tokens trained on."""
    tokens_per_second: int | None = None
    """All ranks together."""
    loss: str | None = None
    """Training loss of the last step, nats per token."""
    eta_seconds: int | None = None
    """Until the last step."""
    eta: str | None = None
    """The same for people: 1h 32m."""
    last_heartbeat_time: str | None = None
    """When the last step ended."""


class GpuSeconds(Status):
    """What the run has cost."""

    allocated: int = 0
    """Held by its pods, all attempts together."""
    productive: int = 0
    """Of these, spent on steps that a checkpoint has."""
    lost: int = 0
    """Spent on steps that no checkpoint has, in attempts that are over. The rest went into starting, measuring and
    exporting."""


class AttemptGpuSeconds(GpuSeconds):
    """The newest attempt's part of `gpuSeconds`."""

    training: int = 0
    """Spent on steps, whether a checkpoint has them or not."""


class QueuePlace(Status):
    """Where a run waits for quota."""

    position: int | None = None
    """Runs ahead of it; 0: it is the next. With Kueue, Workloads ahead of it in its LocalQueue; absent where Kueue's
    visibility API does not say it."""
    message: str = ""
    """What is missing."""


class LastFailure(Status):
    """Why the last attempt that ended early did so."""

    attempt: int | None = None
    """Which attempt; absent for prepare."""
    rank: int | None = None
    """The first rank that failed."""
    node: str | None = None
    """Where it ran."""
    exit_code: int | None = None
    """Its exit code."""
    reason: str
    """SpecError, DataError, StorageError, OutputTaken, NonFinite, Stalled, OOMKilled, NodeLost, ImagePull..."""
    message: str = ""
    """What happened."""
    remedy: str = ""
    """What to do about it, where the message does not say so."""
    log_tail: str = ""
    """Its last lines."""
    time: str | None = None
    """When it was seen."""


class TrainingRunStatus(Status):
    """What the operator knows of the run."""

    observed_generation: int | None = None
    """The metadata.generation this status is about."""
    mode: Mode | None = None
    """Derived from the recipe."""
    phase: Phase | None = None
    """One word for people."""
    conditions: Annotated[list[Condition], Field(max_length=32)] = Field(default_factory=list)
    """The truth about the run."""
    attempt: int = 0
    """The newest attempt; 0 before the first."""
    ended_attempt: int = 0
    """The newest attempt whose end is settled here: counted against a budget, or stopped by `suspend`."""
    gpus: int | None = None
    """GPUs of an attempt, all pods together."""
    nodes: int | None = None
    """Pods of an attempt, where they are fewer than compute.nodes as no more found room."""
    node_failures: dict[str, int] = Field(default_factory=dict)
    """Attempts that failed on each node, or were lost with it."""
    avoided_nodes: list[str] = Field(default_factory=list)
    """Nodes that have failed this run twice: its pods go there only where there is no other."""
    restarts: Restarts = Restarts()
    """Attempts that have ended early."""
    next_attempt_time: str | None = None
    """When the next attempt may start, while backing off."""
    progress: RunProgress | None = None
    """How far the run is."""
    checkpoint: CommittedCheckpoint | None = None
    """The newest commit."""
    last_failure: LastFailure | None = None
    """Why the last attempt that ended early did so."""
    start_time: str | None = None
    """When the first attempt was started."""
    gpu_seconds: GpuSeconds | None = None
    """What the run has cost; absent without GPUs."""
    attempt_gpu_seconds: AttemptGpuSeconds | None = None
    """The newest attempt's part of that."""
    queue: QueuePlace | None = None
    """Where it waits for quota; absent when it does not."""
    source: ModelFolder | None = None
    """The model that was taken from `model.run`; never changes again."""
    data: DataSummary | None = None
    """What prepare found."""
    resolved: dict[str, str] = Field(default_factory=dict)
    """Each value that was automatic."""
    result: Result | None = None
    """What the run has left."""
