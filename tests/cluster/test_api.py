"""The TrainingRun API as the real API server enforces it: what it keeps, what it fills in, what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from kubernetes import client, config
from pydantic import ValidationError
from runyard.api.trainingrun import GROUP, MAX_NAME_LENGTH, PLURAL, VERSION, TrainingRunSpec

from tests.cluster.local_cluster import Cluster
from tests.cluster.random_specs import SMALLEST, SPEC_SCHEMA, mend, values, writes_apart


@pytest.fixture(scope="module")
def api(control_plane: Cluster) -> client.CustomObjectsApi:
    return client.CustomObjectsApi(config.new_client_from_config(str(control_plane.kubeconfig)))


def create(api: client.CustomObjectsApi, spec: dict[str, Any], name: str = "a-run", dry_run: str = "All") -> Any:
    body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainingRun", "metadata": {"name": name}, "spec": spec}
    return api.create_namespaced_custom_object(
        GROUP, VERSION, "default", PLURAL, body, field_validation="Strict", **({"dry_run": dry_run} if dry_run else {})
    )


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(spec=values(SPEC_SCHEMA).map(mend).filter(writes_apart))
def test_every_admitted_spec_is_kept_whole_and_filled_in_as_pydantic_would(
    api: client.CustomObjectsApi, spec: dict[str, Any]
) -> None:
    stored = create(api, copy.deepcopy(spec))["spec"]
    want = TrainingRunSpec.model_validate(spec).model_dump(mode="json", by_alias=True, exclude_none=True)
    assert stored == want


TASK = {"name": "t", "preset": "financial-ner", "test": {"uri": "s3://t/t.jsonl"}}

JUDGE = {"endpoint": "http://judge/v1", "model": "j", "prompts": {"uri": "s3://p/p.jsonl"}}

REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an unknown field": ({"trainning": {"epochs": 1}}, ["spec.trainning"]),
    "an unknown field below": ({"compute": {"gpu": 8}}, ["spec.compute.gpu"]),
    "a text where a number belongs": ({"compute": {"nodes": "two"}}, ["spec.compute.nodes", "integer"]),
    "a fraction of a node": ({"compute": {"nodes": 1.5}}, ["spec.compute.nodes"]),
    "no node at all": ({"compute": {"nodes": 0}}, ["spec.compute.nodes"]),
    "fewer nodes where Kueue admits all or none": (
        {"compute": {"nodes": 2, "minNodes": 1}, "queue": {"name": "gpus"}},
        ["spec.compute.minNodes", "compute.minNodes and queue.name do not go together", "leave one of them out"],
    ),
    "two model sources": (
        {"model": {"uri": "s3://m/m", "scratch": {"config": {}, "tokenizer": {"uri": "s3://t/t"}}}},
        ["spec.model", "exactly one of uri, run, scratch"],
    ),
    "no model source": ({"model": {}}, ["spec.model", "exactly one of uri, run, scratch"]),
    "two tokenizers": (
        {"model": {"scratch": {"config": {}, "tokenizer": {"uri": "s3://t/t", "train": {}}}}},
        ["spec.model.scratch.tokenizer", "exactly one of train, uri"],
    ),
    "no text to train on": ({"data": {"train": []}}, ["spec.data.train"]),
    "text on somebody's disk": ({"data": {"train": [{"uri": "file:///home/me"}]}}, ["spec.data.train[0].uri", "s3://"]),
    "two lengths of training": ({"training": {"steps": 5, "epochs": 1}}, ["spec.training", "epochs, tokens, steps"]),
    "two batch sizes": (
        {"training": {"steps": 5, "batchTokens": 4096, "batchSequences": 2}},
        ["spec.training", "batchTokens", "batchSequences"],
    ),
    "a batch that is no whole number of sequences": (
        {"training": {"steps": 5, "batchTokens": 1000, "sequenceLength": 512}},
        ["spec.training.batchTokens", "multiple of training.sequenceLength"],
    ),
    "a sequence of three tokens": ({"training": {"steps": 5, "sequenceLength": 3}}, ["spec.training.sequenceLength"]),
    "tasks for an encoder": (
        {"objective": "masked-lm", "evaluation": {"tasks": [TASK]}},
        ["spec.evaluation.tasks", "predict the next token", "causal-lm, preference, sft"],
    ),
    "a judge of encoders": (
        {"objective": "masked-lm", "evaluation": {"judge": JUDGE}},
        ["spec.evaluation.judge", "causal-lm, preference, sft"],
    ),
    "a judge of one model": (
        {"evaluation": {"judge": JUDGE, "before": False}},
        ["spec.evaluation.judge", "evaluation.before true"],
    ),
    "a judge with a password in its URL": (
        {"evaluation": {"judge": {**JUDGE, "endpoint": "https://me:secret@judge/v1"}}},
        ["spec.evaluation.judge.endpoint"],
    ),
    "a password in a tracking server's URL": (
        {"tracking": {"mlflow": {"uri": "https://me:secret@mlflow"}}},
        ["spec.tracking.mlflow.uri"],
    ),
    "a task of no type": (
        {"evaluation": {"tasks": [{"name": "t", "test": {"uri": "s3://t/t.jsonl"}}]}},
        ["spec.evaluation.tasks", "exactly one of preset, type"],
    ),
    "two tasks of one name": (
        {"evaluation": {"tasks": [TASK, TASK]}},
        ["spec.evaluation.tasks", "name each differently"],
    ),
    "replay of both kinds": (
        {
            "data": {
                "train": [{"uri": "s3://c/f"}],
                "replay": {"fraction": 0.1, "sources": [{"uri": "s3://c/g"}], "source": "self"},
            }
        },
        ["spec.data.replay", "exactly one of sources, source"],
    ),
    "replay by a model that knows nothing": (
        {
            "model": {"scratch": {"config": {}, "tokenizer": {"uri": "s3://t/t"}}},
            "data": {"train": [{"uri": "s3://c/f"}], "replay": {"fraction": 0.1, "source": "self"}},
        },
        ["spec.data", "give data.replay.sources"],
    ),
    "a source that weighs nothing": (
        {"data": {"train": [{"uri": "s3://c/f", "weight": 0}, {"uri": "s3://c/g"}]}},
        ["spec.data.train[0].weight"],
    ),
    "the texts that surprise most": (
        {"data": {"train": [{"uri": "s3://c/f"}], "select": {"method": "perplexity", "fraction": 0.1}}},
        ["spec.data.select.method", "picks noise", "choose novelty-diversity"],
    ),
    "texts like those of no task": (
        {"data": {"train": [{"uri": "s3://c/f"}], "select": {"method": "similarity", "fraction": 0.1}}},
        ["spec.data.select", "needs data.select.target"],
    ),
    "what is new to a model that nothing is known of": (
        {"data": {"train": [{"uri": "s3://c/f"}], "select": {"method": "novelty-diversity", "fraction": 0.1}}},
        ["spec.data.select", "data.select.reference, or data.replay.sources"],
    ),
    "a task where none is asked about": (
        {
            "data": {
                "train": [{"uri": "s3://c/f"}],
                "select": {
                    "method": "novelty-diversity",
                    "fraction": 0.1,
                    "target": [{"uri": "s3://c/t"}],
                    "reference": [{"uri": "s3://c/g"}],
                },
            }
        },
        ["spec.data.select.target", "no use"],
    ),
    "noise where nothing is told of it": (
        {
            "data": {
                "train": [{"uri": "s3://c/f"}],
                "select": {"method": "similarity", "fraction": 0.1, "target": [{"uri": "s3://c/t"}], "noiseClip": 0.1},
            }
        },
        ["spec.data.select", "noiseClip have no use"],
    ),
    "more than all documents": (
        {
            "data": {
                "train": [{"uri": "s3://c/f"}],
                "select": {"method": "novelty-diversity", "fraction": 0.95, "reference": [{"uri": "s3://c/g"}]},
            }
        },
        ["spec.data.select.fraction", "more than all"],
    ),
    "conversations of a task": (
        {
            "data": {
                "train": [{"uri": "s3://c/f"}],
                "select": {
                    "method": "similarity",
                    "fraction": 0.1,
                    "target": [{"uri": "s3://c/t", "format": "messages"}],
                },
            }
        },
        ["spec.data.select.target", "has no records"],
    ),
    "a choice among labelled texts": (
        {
            "objective": "classification",
            "data": {
                "train": [{"uri": "s3://c/f"}],
                "select": {"method": "similarity", "fraction": 0.1, "target": [{"uri": "s3://c/t"}]},
            },
        },
        ["spec.data", "among texts without labels"],
    ),
    "more tokens for a model that has none": (
        {
            "model": {
                "scratch": {"config": {}, "tokenizer": {"uri": "s3://t/t"}},
                "extendVocabulary": {"tokens": 100},
            }
        },
        ["spec.model.extendVocabulary", "model.scratch.tokenizer.train.vocabSize"],
    ),
    "more tokens than can be": (
        {"model": {"uri": "s3://m/m", "extendVocabulary": {"tokens": 1_000_000}}},
        ["spec.model.extendVocabulary.tokens", "100000"],
    ),
    "more tokens for an encoder": (
        {"objective": "masked-lm", "model": {"uri": "s3://m/m", "extendVocabulary": {"tokens": 100}}},
        ["spec.model.extendVocabulary", "causal-lm and sft"],
    ),
    "more tokens for a model that replays what it knows": (
        {
            "model": {"uri": "s3://m/m", "extendVocabulary": {"tokens": 100}},
            "data": {"train": [{"uri": "s3://c/f"}], "replay": {"fraction": 0.1, "source": "self"}},
        },
        ["spec.data", "model.extendVocabulary", "give data.replay.sources"],
    ),
    "a weight without anything to weigh against": (
        {"data": {"train": [{"uri": "s3://c/f", "weight": 2}]}},
        ["spec.data.train", "training.epochs"],
    ),
    "replay of everything": (
        {"data": {"train": [{"uri": "s3://c/f"}], "replay": {"fraction": 1, "sources": [{"uri": "s3://c/g"}]}}},
        ["spec.data.replay.fraction"],
    ),
    "two kinds of validation": (
        {"data": {"train": [{"uri": "s3://c/f"}], "validation": {"fraction": 0.1, "sources": [{"uri": "s3://c/g"}]}}},
        ["spec.data.validation", "fraction", "sources", "both set"],
    ),
    "a learning rate of zero": ({"training": {"steps": 5, "learningRate": 0}}, ["spec.training.learningRate"]),
    "an objective that is not built": ({"objective": "translation"}, ["spec.objective", "causal-lm"]),
    "memory of many": ({"compute": {"resources": {"memory": "lots"}}}, ["spec.compute.resources.memory"]),
    "memory of many to prepare": ({"prepare": {"resources": {"memory": "lots"}}}, ["spec.prepare.resources.memory"]),
    "whole words where nothing is masked": (
        {"masking": {"wholeWord": True}},
        ["spec.masking.wholeWord", "objectives masked-lm and masked-lm-nsp"],
    ),
    "WordPiece for a model that writes": (
        {"model": {"scratch": {"config": {}, "tokenizer": {"train": {"type": "wordpiece"}}}}},
        ["spec.model.scratch.tokenizer.train.type", "write bpe"],
    ),
    "the output over the model": ({"output": {"uri": "s3://models/pythia-1b"}}, ["spec.output.uri", "model.uri"]),
    "the output over the model, with a slash": ({"output": {"uri": "s3://models/pythia-1b/"}}, ["spec.output.uri"]),
    "the output among the text": ({"output": {"uri": "s3://corpora/filings"}}, ["spec.output.uri", "data.train"]),
    "a classifier from random weights": (
        {"objective": "classification", "model": {"scratch": {"config": {}, "tokenizer": {"uri": "s3://t/t"}}}},
        ["spec.model.scratch", "model.uri"],
    ),
    "general text for a model that predicts no tokens": (
        {"objective": "token-classification", "evaluation": {"general": [{"uri": "s3://c/g"}]}},
        ["spec.evaluation.general", "remove evaluation.general"],
    ),
    "an adapter's rank without an adapter": ({"method": {"rank": 8}}, ["spec.method", "method.type is full"]),
    "an adapter of a model that knows nothing": (
        {"method": {"type": "lora"}, "model": {"scratch": {"config": {}, "tokenizer": {"uri": "s3://t/t"}}}},
        ["spec.method.type", "model.scratch has none"],
    ),
    "weights of 4 bits on CPUs": (
        {"method": {"type": "qlora"}, "compute": {"gpusPerNode": 0}},
        ["spec.method.type", "compute.gpusPerNode"],
    ),
    "preference with dropout": (
        {"objective": "preference", "method": {"type": "lora", "dropout": 0.1}},
        ["spec.method.dropout", "without dropout"],
    ),
    "a beta for an objective without one": ({"preference": {"beta": 0.1}}, ["spec.preference.beta", "belongs to"]),
    "conversations for a model of text": (
        {"data": {"train": [{"uri": "s3://c/f", "format": "messages"}]}},
        ["spec.data", "those of objective sft"],
    ),
    "conversations to validate a classifier": (
        {
            "objective": "classification",
            "data": {
                "train": [{"uri": "s3://c/f"}],
                "validation": {"sources": [{"uri": "s3://c/g", "format": "conversations"}]},
            },
        },
        ["spec.data", "those of objective sft"],
    ),
    "instructions as general text": (
        {"objective": "sft", "evaluation": {"general": [{"uri": "s3://c/g", "format": "alpaca"}]}},
        ["spec.evaluation.general", "has no records"],
    ),
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
