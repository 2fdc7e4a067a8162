"""Kubernetes Events about runs and budgets: what `kubectl describe` shows.

An Event's name has a hash of its subject, its text and the occasion, so recording it twice makes one Event. Events are
for people and may be lost: nothing depends on them.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime

from runyard_trainer.contract.times import format_microseconds

from runyard.api.trainingrun import API_VERSION, KIND
from runyard.cluster.client import ApiError
from runyard.cluster.objects import collection_path
from runyard.cluster.runs import Cluster
from runyard.decide.values import Event, Manifest, Run

logger = logging.getLogger(__name__)

EVENTS_API = "events.k8s.io/v1"
MAX_NOTE_LENGTH = 1024
"""As the API server allows."""
OF_THE_CLUSTER = "default"
"""The namespace where Events about what has none have to be."""


@dataclass(frozen=True)
class Subject:
    """The object that Events are about."""

    kind: str
    name: str
    uid: str
    resource_version: str
    namespace: str | None = None
    """None for what belongs to the cluster."""


def subject_of(run: Run) -> Subject:
    """Return the run as the subject of its Events."""
    return Subject(KIND, run.name, run.uid, run.resource_version, run.namespace)


async def record_event(
    cluster: Cluster, subject: Subject, occasion: str, event: Event, instance: str, now: datetime
) -> None:
    """Create the Event. An error is logged, unless the Event is there already. Raises NotLeaderError."""
    manifest = build_event(subject, occasion, event, instance, now)
    try:
        await cluster.write("POST", collection_path(EVENTS_API, manifest["metadata"]["namespace"], "events"), manifest)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            logger.warning("%s %s: the Event %s is lost: %s", subject.kind, subject.name, event.reason, error)


def build_event(subject: Subject, occasion: str, event: Event, instance: str, now: datetime) -> Manifest:
    """Build the Event as Kubernetes stores it.

    Args:
        subject: what it is about.
        occasion: distinguishes Events with the same text: `generation 1, attempt 2`.
        event: its type, reason and message.
        instance: the name of the operator's pod.
        now: the time of the Event.
    """
    content = "\n".join((subject.uid, occasion, event.type, event.reason, event.message))
    where = {} if subject.namespace is None else {"namespace": subject.namespace}
    return {
        "apiVersion": EVENTS_API,
        "kind": "Event",
        "metadata": {
            "name": f"{subject.name}.{hashlib.sha256(content.encode()).hexdigest()[:16]}",
            "namespace": subject.namespace or OF_THE_CLUSTER,
        },
        "type": event.type,
        "reason": event.reason,
        "action": "Reconcile",
        "note": event.message[:MAX_NOTE_LENGTH],
        "eventTime": format_microseconds(now),
        "reportingController": "runyard.dev/operator",
        "reportingInstance": instance,
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": subject.kind,
            **where,
            "name": subject.name,
            "uid": subject.uid,
            "resourceVersion": subject.resource_version,
        },
    }
