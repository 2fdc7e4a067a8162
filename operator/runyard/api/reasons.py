"""The CamelCase reasons in a run's status that the trainer does not report (`runyard_trainer.contract.exits.Reason`).

    FailureReason     why a pod ended or does not start, as read from its status: status.lastFailure
    ConditionReason   why a condition has its value, where no pod is the cause: status.conditions, Events

A failure reason enters here, and its remedy in `decide.facts.remedies`: a test holds the two together.
"""

from __future__ import annotations

from enum import StrEnum


class FailureReason(StrEnum):
    """The reason for which a pod ended or does not start. Others of Kubernetes go into status as they are."""

    CONTAINER_STATUS_UNKNOWN = "ContainerStatusUnknown"
    CREATE_CONTAINER_CONFIG_ERROR = "CreateContainerConfigError"
    CREATE_CONTAINER_ERROR = "CreateContainerError"
    DISRUPTION_TARGET = "DisruptionTarget"
    EVICTED = "Evicted"
    IMAGE_PULL = "ImagePull"
    JOB_DELETED = "JobDeleted"
    NODE_LOST = "NodeLost"
    POD_DELETED = "PodDeleted"
    POD_FAILED = "PodFailed"
    SCHEDULING_GATED = "SchedulingGated"
    STARTUP_TIMEOUT = "StartupTimeout"
    UNSCHEDULABLE = "Unschedulable"


class ConditionReason(StrEnum):
    """The reason of a run's conditions, where it is not that of a failure."""

    # on its way
    PREPARING = "Preparing"
    RETRYING = "Retrying"
    RUN_NOT_FOUND = "RunNotFound"
    WAITING_FOR_RUN = "WaitingForRun"
    SOURCE_READY = "SourceReady"
    STARTING = "Starting"
    WRITING_REPLAY = "WritingReplay"
    EVALUATING = "Evaluating"
    TRAINING = "Training"
    EXPORTING = "Exporting"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"

    # waiting for quota
    ADMITTING = "Admitting"
    QUEUED = "Queued"
    QUOTA_EXCEEDED = "QuotaExceeded"
    EXCEEDS_QUOTA = "ExceedsQuota"
    BUDGET_USED_UP = "BudgetUsedUp"
    PRIORITY_CLASS_NOT_FOUND = "PriorityClassNotFound"
    PREEMPTED = "Preempted"
    EVICTED = "Evicted"
    REFUSED = "Refused"

    # an attempt has ended early, and another follows
    ATTEMPT_FAILED = "AttemptFailed"
    DISRUPTED = "Disrupted"
    STARTUP_TIMEOUT = "StartupTimeout"

    # the operator cannot act
    APPLY_FAILED = "ApplyFailed"
    NAME_CONFLICT = "NameConflict"

    # the run has failed, besides what pods report
    FAILURE_BUDGET_EXCEEDED = "FailureBudgetExceeded"
    DISRUPTION_BUDGET_EXCEEDED = "DisruptionBudgetExceeded"
    BUDGET_EXCEEDED = "BudgetExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    NOT_SUPPORTED = "NotSupported"
    SOURCE_RUN_FAILED = "SourceRunFailed"

    PREPARE_FAILED = "PrepareFailed"
    """Of an Event alone."""
