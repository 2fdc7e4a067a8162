"""The TrainingRun API as the real API server enforces it: what it keeps, what it fills in, what it refuses."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubernetes import client, config
from pydantic import ValidationError
from runyard.api.crd.rules import build_cross_rules
from runyard.api.trainingrun import GROUP, MAX_NAME_LENGTH, PLURAL, VERSION, TrainingRunSpec

from tests.broken_rules import BROKEN, SMALLEST
from tests.cluster.local_cluster import Cluster
from tests.cluster.random_specs import RULED_FIELDS, admitted, altered


@pytest.fixture(scope="module")
def api(control_plane: Cluster) -> client.CustomObjectsApi:
    return client.CustomObjectsApi(config.new_client_from_config(str(control_plane.kubeconfig)))


def create(api: client.CustomObjectsApi, spec: dict[str, Any], name: str = "a-run", dry_run: str = "All") -> Any:
    body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainingRun", "metadata": {"name": name}, "spec": spec}
    return api.create_namespaced_custom_object(
        GROUP, VERSION, "default", PLURAL, body, field_validation="Strict", **({"dry_run": dry_run} if dry_run else {})
    )


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(spec=admitted())
def test_every_admitted_spec_is_kept_whole_and_filled_in_as_pydantic_would(
    api: client.CustomObjectsApi, spec: dict[str, Any]
) -> None:
    stored = create(api, copy.deepcopy(spec))["spec"]
    want = TrainingRunSpec.model_validate(spec).model_dump(mode="json", by_alias=True, exclude_none=True)
    assert stored == want


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(spec=st.sampled_from([SMALLEST, *(SMALLEST | case.kept for case in BROKEN.values())]).flatmap(altered))
def test_the_api_server_and_pydantic_take_the_same_specs(api: client.CustomObjectsApi, spec: dict[str, Any]) -> None:
    refused = None
    try:
        TrainingRunSpec.model_validate(spec)
    except ValidationError as error:
        refused = error
    if refused is None:
        create(api, spec)
        return
    with pytest.raises(client.ApiException) as caught:
        create(api, spec)
    for mistake in refused.errors():
        assert mistake["type"] == "value_error", "what is drawn from the schema breaks nothing but rules across fields"
        assert mistake["msg"].removeprefix("Value error, ") in caught.value.body


def test_specs_are_altered_where_rules_look() -> None:
    assert {("objective",), ("data", "select", "noiseClip"), ("model", "run"), ("compute", "nodes")} <= {*RULED_FIELDS}


RULE_PATHS = {
    rule["message"]: f"spec.{place}".rstrip(".") + rule.get("fieldPath", "")
    for place, rules in build_cross_rules(TrainingRunSpec).items()
    for rule in rules
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_api_server_refuses_what_breaks_a_rule_as_pydantic_does_and_takes_its_neighbour(
    api: client.CustomObjectsApi, what: str
) -> None:
    with pytest.raises(ValidationError) as by_pydantic:
        TrainingRunSpec.model_validate(SMALLEST | BROKEN[what].broken)
    message = by_pydantic.value.errors()[0]["msg"].removeprefix("Value error, ")
    with pytest.raises(client.ApiException) as refused:
        create(api, SMALLEST | BROKEN[what].broken)
    body = json.loads(refused.value.body)
    causes = {cause["field"].replace("[0]", "[]") for cause in body["details"]["causes"] if message in cause["message"]}
    assert causes == {RULE_PATHS[message]}
    create(api, SMALLEST | BROKEN[what].kept)


JUDGE = {"endpoint": "http://judge/v1", "model": "j", "prompts": {"uri": "s3://p/p.jsonl"}}

REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an unknown field": ({"trainning": {"epochs": 1}}, ["spec.trainning"]),
    "an unknown field below": ({"compute": {"gpu": 8}}, ["spec.compute.gpu"]),
    "a text where a number belongs": ({"compute": {"nodes": "two"}}, ["spec.compute.nodes", "integer"]),
    "a fraction of a node": ({"compute": {"nodes": 1.5}}, ["spec.compute.nodes"]),
    "no node at all": ({"compute": {"nodes": 0}}, ["spec.compute.nodes"]),
    "no text to train on": ({"data": {"train": []}}, ["spec.data.train"]),
    "text on somebody's disk": ({"data": {"train": [{"uri": "file:///home/me"}]}}, ["spec.data.train[0].uri", "s3://"]),
    "a sequence of three tokens": ({"training": {"steps": 5, "sequenceLength": 3}}, ["spec.training.sequenceLength"]),
    "a judge with a password in its URL": (
        {"evaluation": {"judge": {**JUDGE, "endpoint": "https://me:secret@judge/v1"}}},
        ["spec.evaluation.judge.endpoint"],
    ),
    "a password in a tracking server's URL": (
        {"tracking": {"mlflow": {"uri": "https://me:secret@mlflow"}}},
        ["spec.tracking.mlflow.uri"],
    ),
    "a source that weighs nothing": (
        {"data": {"train": [{"uri": "s3://c/f", "weight": 0}, {"uri": "s3://c/g"}]}},
        ["spec.data.train[0].weight"],
    ),
    "more tokens than can be": (
        {"model": {"uri": "s3://m/m", "extendVocabulary": {"tokens": 1_000_000}}},
        ["spec.model.extendVocabulary.tokens", "100000"],
    ),
    "replay of everything": (
        {"data": {"train": [{"uri": "s3://c/f"}], "replay": {"fraction": 1, "sources": [{"uri": "s3://c/g"}]}}},
        ["spec.data.replay.fraction"],
    ),
    "a learning rate of zero": ({"training": {"steps": 5, "learningRate": 0}}, ["spec.training.learningRate"]),
    "an objective that is not built": ({"objective": "translation"}, ["spec.objective", "causal-lm"]),
    "memory of many": ({"compute": {"resources": {"memory": "lots"}}}, ["spec.compute.resources.memory"]),
    "memory of many to prepare": ({"prepare": {"resources": {"memory": "lots"}}}, ["spec.prepare.resources.memory"]),
    "no compute": ({"compute": None}, ["spec.compute"]),
}  # fmt: skip


def scratch(value: Any) -> dict[str, Any]:
    """A model whose configuration has this value."""
    return {"scratch": {"config": {"model_type": "gpt2", "x": value}, "tokenizer": {"train": {}}}}


def nest(levels: int, is_list: bool = True) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if is_list else {"a": value}
    return value


TOO_LARGE = {
    "lists of four levels": nest(4),
    "objects of four levels": nest(4, is_list=False),
    "hundreds of levels": nest(400),
    "too long a list": [0] * 1025,
    "too many fields": {f"f{number}": 0 for number in range(1025)},
    "too long a text": "x" * 4097,
    "too long a text further down": [["x" * 4097]],
}
LARGEST = [nest(3), nest(3, is_list=False), [0] * 1024, "x" * 4096, [[[]]], None, {"a": None}]


@pytest.mark.parametrize("what", TOO_LARGE)
def test_a_configuration_beyond_its_bounds_is_refused_by_the_api_server_and_by_pydantic(
    api: client.CustomObjectsApi, what: str
) -> None:
    spec = SMALLEST | {"model": scratch(TOO_LARGE[what])}
    with pytest.raises(ValidationError, match=r"config\.x"):
        TrainingRunSpec.model_validate(spec)
    with pytest.raises(client.ApiException, match=r"spec\.model\.scratch\.config\.x"):
        create(api, spec)


@pytest.mark.parametrize("value", LARGEST, ids=lambda value: str(value)[:20])
def test_a_configuration_within_its_bounds_is_kept_as_it_is(api: client.CustomObjectsApi, value: Any) -> None:
    spec = SMALLEST | {"model": scratch(value)}
    assert TrainingRunSpec.model_validate(spec).model.scratch is not None
    assert create(api, spec)["spec"]["model"]["scratch"]["config"]["x"] == value


@pytest.mark.parametrize("what", REFUSED)
def test_the_api_server_refuses_and_names_the_field(api: client.CustomObjectsApi, what: str) -> None:
    fields, words = REFUSED[what]
    with pytest.raises(client.ApiException) as refused:
        create(api, {**copy.deepcopy(SMALLEST), **fields})
    assert refused.value.status in (400, 422)
    for word in words:
        assert word in refused.value.body


def test_a_name_too_long_for_its_pods_is_refused_with_the_limit(api: client.CustomObjectsApi) -> None:
    create(api, SMALLEST, name="n" * MAX_NAME_LENGTH)
    with pytest.raises(client.ApiException) as refused:
        create(api, SMALLEST, name="n" * (MAX_NAME_LENGTH + 1))
    assert f"at most {MAX_NAME_LENGTH} characters" in refused.value.body


@pytest.mark.parametrize("name", ["fin.cpt", "7b-cpt"])
def test_a_name_that_is_no_host_name_is_refused(api: client.CustomObjectsApi, name: str) -> None:
    with pytest.raises(client.ApiException) as refused:
        create(api, SMALLEST, name=name)
    assert "metadata.name must begin with a letter and have no dots" in refused.value.body


def test_only_a_few_fields_may_change_once_the_run_exists(api: client.CustomObjectsApi) -> None:
    create(api, {**SMALLEST, "model": {"scratch": {"config": {"hidden_size": 64}, "tokenizer": {"train": {}}}}},
           name="fixed", dry_run="")  # fmt: skip

    def patch(spec: dict[str, Any]) -> Any:
        return api.patch_namespaced_custom_object(GROUP, VERSION, "default", PLURAL, "fixed", {"spec": spec})

    assert patch({"suspend": True})["spec"]["suspend"] is True
    for ttl in (60, 0, None):
        assert patch({"ttlSecondsAfterFinished": ttl})["spec"].get("ttlSecondsAfterFinished") == ttl
    for changed in (
        {"compute": {"gpusPerNode": 3}},
        {"compute": {"image": "another"}},
        {"model": {"scratch": {"config": {"hidden_size": 65}}}},
        {"training": {"epochs": 2}},
        {"output": {"uri": "s3://elsewhere/x"}},
    ):
        with pytest.raises(client.ApiException) as refused:
            patch(changed)
        assert f"spec.{next(iter(changed))}" in refused.value.body
        assert "cannot change" in refused.value.body
        mutable = "suspend, limits, ttlSecondsAfterFinished, prepare, compute.nodes, compute.minNodes"
        assert f"only {mutable} can" in refused.value.body
    api.delete_namespaced_custom_object(GROUP, VERSION, "default", PLURAL, "fixed")


def test_what_prepare_may_take_changes_until_preparation_has_ended(api: client.CustomObjectsApi) -> None:
    create(api, SMALLEST, name="mended", dry_run="")
    name = (GROUP, VERSION, "default", PLURAL, "mended")

    def patch(spec: dict[str, Any]) -> Any:
        return api.patch_namespaced_custom_object(*name, {"spec": spec})

    def hold(condition: str) -> None:
        time = "2026-05-04T12:00:00Z"
        held = {"type": condition, "status": "True", "reason": "Tested", "message": "", "lastTransitionTime": time}
        api.patch_namespaced_custom_object_status(*name, {"status": {"conditions": [held]}})

    assert patch({"prepare": {"resources": {"memory": "8Gi"}}})["spec"]["prepare"]["resources"] == {"memory": "8Gi"}
    hold("Reconciling")
    patch({"prepare": {"resources": {"cpu": "2"}}})
    for condition in ("Prepared", "Failed"):
        hold(condition)
        with pytest.raises(client.ApiException) as refused:
            patch({"prepare": {"resources": {"memory": "16Gi"}}})
        assert "spec.prepare can change only until preparation has ended" in refused.value.body
        assert patch({"suspend": condition == "Failed"})["spec"]["prepare"]["resources"]["memory"] == "8Gi"
    api.delete_namespaced_custom_object(*name)


def test_the_shape_may_change_while_the_run_is_suspended_and_not_otherwise(api: client.CustomObjectsApi) -> None:
    created = create(api, {**SMALLEST, "compute": {"nodes": 4}}, name="elastic", dry_run="")
    assert created["status"]["observedGeneration"] == -1, "kstatus takes a run that nobody has seen yet for ready"

    def patch(spec: dict[str, Any]) -> Any:
        return api.patch_namespaced_custom_object(GROUP, VERSION, "default", PLURAL, "elastic", {"spec": spec})

    for changed in ({"nodes": 3}, {"minNodes": 2}):
        with pytest.raises(client.ApiException) as refused:
            patch({"compute": changed})
        assert "can change only while the run is suspended" in refused.value.body
    patch({"suspend": True})
    assert patch({"compute": {"nodes": 3, "minNodes": 2}})["spec"]["compute"]["nodes"] == 3
    with pytest.raises(client.ApiException) as refused:
        patch({"compute": {"minNodes": 4}})
    assert "compute.minNodes is more than compute.nodes" in refused.value.body
    patch({"suspend": False, "compute": {"nodes": 2}})
    api.delete_namespaced_custom_object(GROUP, VERSION, "default", PLURAL, "elastic")
