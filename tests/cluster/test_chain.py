"""Runs that start from each other, applied at once in the wrong order."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster import runs
from tests.cluster.local_cluster import Cluster
from tests.waiting import wait_until

SHORT = {"steps": 4, "sequenceLength": 64, "batchSequences": 4, "learningRate": 0.003}


@pytest.fixture(scope="module")
def corpus(cluster: Cluster) -> str:
    return runs.upload_corpus(cluster, "corpora/chain")


def link(name: str, corpus: str, model: dict[str, Any] | None = None) -> dict[str, Any]:
    overrides: dict[str, Any] = {
        "training": SHORT,
        "checkpoint": {"everySteps": 2},
        "compute": {"nodes": 1, "gpusPerNode": 1},
    }
    return runs.manifest(name, corpus, **overrides, **({"model": model} if model else {}))


def choose_half(run: dict[str, Any], known: str) -> dict[str, Any]:
    """Let it train on the half of its documents that is new and varied."""
    select = {"method": "novelty-diversity", "fraction": 0.5, "reference": [{"uri": known}]}
    return run | {"spec": run["spec"] | {"data": run["spec"]["data"] | {"select": select}}}


def test_a_chain_applied_at_once_runs_in_its_order_and_every_model_knows_where_it_comes_from(
    cluster: Cluster, corpus: str
) -> None:
    runs.apply(cluster, choose_half(link("chain-3", corpus, {"run": {"name": "chain-2"}}), corpus))
    runs.apply(cluster, link("chain-2", corpus, {"run": {"name": "chain-1", "checkpoint": "2"}}))
    runs.wait_for_phase(cluster, "chain-3", "Waiting")
    assert runs.job_names(cluster, "chain-3") == []
    runs.apply(cluster, link("chain-1", corpus))
    final = runs.wait_for_phase(cluster, "chain-3", "Succeeded", deadline_s=300)
    assert final["resolved"]["noiseClip"] == "0.1"
    assert final["data"]["documents"] == round((60 - final["data"]["validationDocuments"]) / 2)
    assert final["data"]["dropped"] > 0
    second = runs.status(cluster, "chain-2")
    assert final["source"]["uri"] == second["result"]["uri"]
    assert final["source"]["digest"] == second["result"]["digest"]
    assert second["source"]["step"] == 2
    lineage = runs.read_json(cluster, "out/chain-3/lineage.json")
    assert lineage["source"]["lineage"]["run"]["name"] == "chain-2"
    assert lineage["source"]["lineage"]["source"]["lineage"]["run"]["name"] == "chain-1"
    first = runs.status(cluster, "chain-1")["result"]
    assert second["result"]["before"]["domainLoss"] > first["after"]["domainLoss"], "step 2 was not taken"
    assert final["result"]["before"]["domainLoss"] == pytest.approx(second["result"]["after"]["domainLoss"], rel=1e-6)


def test_a_run_whose_source_has_no_such_checkpoint_says_which_there_are(cluster: Cluster, corpus: str) -> None:
    runs.wait_for_phase(cluster, "chain-1", "Succeeded")
    runs.apply(cluster, link("no-such-step", corpus, {"run": {"name": "chain-1", "checkpoint": "3"}}))
    wait_until(lambda: runs.status(cluster, "no-such-step").get("phase") == "Failed", 60)
    failure = runs.status(cluster, "no-such-step")["lastFailure"]
    assert failure["reason"] == "DataError"
    assert "has no checkpoint of step 3; kept are 2, 4" in failure["message"]


def test_a_run_that_names_itself_is_refused(cluster: Cluster, corpus: str) -> None:
    refused = runs.apply(cluster, link("narcissus", corpus, {"run": {"name": "narcissus"}}), check=False)
    assert refused.returncode != 0
    assert "spec.model.run.name is this run itself" in refused.stderr
