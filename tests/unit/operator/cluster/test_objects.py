"""Status patches against RFC 7396, and a stored run read whole or with the error of its spec."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runyard.cluster.objects import merge_patch, parse_run

SPEC = {
    "model": {"uri": "s3://models/base"},
    "data": {"train": [{"uri": "s3://corpora/text/"}]},
    "output": {"uri": "s3://models/out"},
    "compute": {"nodes": 1},
}

JSON_VALUES = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)
JSON_OBJECTS = st.dictionaries(st.sampled_from("abcd"), JSON_VALUES, max_size=4)
ON_A_BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def build_manifest(spec: dict[str, Any], **status: Any) -> dict[str, Any]:
    metadata = {"namespace": "lab", "name": "cpt", "uid": "u-1", "generation": 3, "resourceVersion": "77"}
    return {"metadata": metadata, "spec": spec, "status": status}


def apply_merge_patch(old: Any, patch: Any) -> Any:
    """RFC 7396, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = apply_merge_patch(result.get(name), value)
    return result


@ON_A_BUSY_MACHINE
@given(old=JSON_OBJECTS, new=JSON_OBJECTS)
def test_a_merge_patch_makes_the_new_status_of_the_old_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert apply_merge_patch(old, merge_patch(old, new)) == new


@ON_A_BUSY_MACHINE
@given(status=JSON_OBJECTS)
def test_what_does_not_differ_makes_an_empty_patch(status: dict[str, Any]) -> None:
    assert merge_patch(status, status) == {}


def test_a_spec_that_validates_is_parsed_with_its_status() -> None:
    run = parse_run(build_manifest(SPEC, attempt=2))
    assert run.spec is not None
    assert run.spec.model.uri == "s3://models/base"
    assert (run.status.attempt, run.generation, run.deleting, run.spec_error) == (2, 3, False, None)


@pytest.mark.parametrize(
    ("change", "want"),
    [
        ({"compute": {"nodes": 0}}, "spec.compute.nodes: Input should be greater than or equal to 1"),
        ({"data": {"train": [{"uri": "x"}]}}, "spec.data.train[0].uri: String should have at least 6 characters"),
        ({"surprise": 1}, "spec.surprise: Extra inputs are not permitted"),
        ({"model": {}}, "spec.model: model needs exactly one of uri, run, scratch"),
    ],
)
def test_a_spec_that_does_not_validate_is_an_error_that_names_the_field(change: dict[str, Any], want: str) -> None:
    run = parse_run(build_manifest(SPEC | change))
    assert run.spec is None
    assert run.spec_error == want
