"""Kubernetes Events about a run: what `kubectl describe` shows.

An Event's name is a hash of what it says and of the run's generation and attempt, so saying it twice makes one Event.
Events are for people and may be lost: nothing rests on them.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime

from runyard.api import API_VERSION, KIND
from runyard.cluster import Cluster, collection_path
from runyard.kube import ApiError
from runyard.world import Event, Manifest, Run

logger = logging.getLogger(__name__)

EVENTS_API = "events.k8s.io/v1"
MAX_NOTE_LENGTH = 1024
"""As the API server allows."""


async def record_event(cluster: Cluster, run: Run, event: Event, attempt: int, instance: str, now: datetime) -> None:
    """Create the Event; that it is there already, or cannot be made, is no reason to stop. Raises NotLeaderError."""
    manifest = build_event(run, event, attempt, instance, now)
    try:
        await cluster.write("POST", collection_path(EVENTS_API, run.namespace, "events"), manifest)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            logger.warning("%s/%s: the Event %s is lost: %s", run.namespace, run.name, event.reason, error)


def build_event(run: Run, event: Event, attempt: int, instance: str, now: datetime) -> Manifest:
    """The Event as Kubernetes stores it; `instance` names the operator's pod."""
    said = "\n".join((run.uid, str(run.generation), str(attempt), event.type, event.reason, event.message))
    return {
        "apiVersion": EVENTS_API,
        "kind": "Event",
        "metadata": {
            "name": f"{run.name}.{hashlib.sha256(said.encode()).hexdigest()[:16]}",
            "namespace": run.namespace,
        },
        "type": event.type,
        "reason": event.reason,
        "action": "Reconcile",
        "note": event.message[:MAX_NOTE_LENGTH],
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": "runyard.dev/operator",
        "reportingInstance": instance,
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": run.namespace,
            "name": run.name,
            "uid": run.uid,
            "resourceVersion": run.resource_version,
        },
    }
