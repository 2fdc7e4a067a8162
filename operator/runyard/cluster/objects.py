"""Read a TrainingRun out of what the API server sends, and write the difference of two statuses."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from runyard_trainer.contract.base import describe_errors

from runyard.api.trainingrun import TrainingRunSpec, TrainingRunStatus
from runyard.decide.values import Manifest, Run


def collection_path(api_version: str, namespace: str, plural: str) -> str:
    """Return the API path of a namespace's objects of one kind."""
    root = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
    return f"{root}/namespaces/{namespace}/{plural}"


def is_owned_by(manifest: Manifest, uid: str) -> bool:
    """Return whether the one with `uid` is among the object's owners. With Kueue, a Job of the run owns others too."""
    return any(owner["uid"] == uid for owner in manifest["metadata"].get("ownerReferences", []))


def parse_run(manifest: Manifest) -> Run:
    """Parse a stored TrainingRun. A spec that does not validate becomes `spec_error`, for status to show."""
    metadata = manifest["metadata"]
    spec, spec_error = None, None
    try:
        spec = TrainingRunSpec.model_validate(manifest.get("spec", {}))
    except ValidationError as error:
        spec_error = describe_validation_error(error)
    return Run(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata["generation"],
        resource_version=metadata["resourceVersion"],
        spec=spec,
        status=TrainingRunStatus.model_validate(manifest.get("status", {})),
        spec_error=spec_error,
        deleting="deletionTimestamp" in metadata,
        created=metadata.get("creationTimestamp", ""),
    )


def describe_validation_error(error: ValidationError) -> str:
    """Describe each mistake with the field's path: `spec.data.train[0].uri: ...; ...`."""
    return "; ".join(describe_errors(error, root="spec"))


def diff_status(stored: TrainingRunStatus, wanted: TrainingRunStatus) -> dict[str, Any]:
    """Return the JSON merge patch that makes the stored status the wanted one; empty where they are equal."""
    old = stored.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return merge_patch(old, wanted.model_dump(mode="json", by_alias=True, exclude_none=True))


def merge_patch(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON merge patch (RFC 7396) that makes `old` into `new`: missing keys become null, lists whole."""
    patch: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    for name, value in new.items():
        before = old.get(name)
        if name not in old:
            patch[name] = value
        elif isinstance(before, dict) and isinstance(value, dict):
            if inner := merge_patch(before, value):
                patch[name] = inner
        elif before != value:
            patch[name] = value
    return patch
