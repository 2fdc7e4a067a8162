"""Read a TrainingRun out of what the API server sends, and write the difference of two statuses."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from runyard_trainer.contract.fields import describe_errors

from runyard.api.trainingrun import TrainingRunSpec, TrainingRunStatus
from runyard.decide.values import Manifest, Run


def collection_path(api_version: str, namespace: str, plural: str) -> str:
    """API path of a namespace's objects of one kind."""
    root = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
    return f"{root}/namespaces/{namespace}/{plural}"


def is_owned_by(manifest: Manifest, uid: str) -> bool:
    """Whether the one with `uid` is among the object's owners: with Kueue, a Job of the run controls others of it."""
    return any(owner["uid"] == uid for owner in manifest["metadata"].get("ownerReferences", []))


def parse_run(manifest: Manifest) -> Run:
    """A stored TrainingRun; a spec that does not validate becomes `spec_error`, since a person has to hear of it."""
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
    """One line for each mistake, with the field's path: `spec.data.train[0].uri: ...`."""
    return "; ".join(describe_errors(error, root="spec"))


def diff_status(stored: TrainingRunStatus, wanted: TrainingRunStatus) -> dict[str, Any]:
    """The JSON merge patch that makes the stored status the wanted one; empty where it is."""
    old = stored.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return merge_patch(old, wanted.model_dump(mode="json", by_alias=True, exclude_none=True))


def merge_patch(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7396) that makes `old` into `new`: what is gone is null, lists are replaced whole."""
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
