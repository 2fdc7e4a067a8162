"""Every manifest of examples/ ends Succeeded, and its model opens with the class that its users know, without us.

`make test` trains each for a few steps; `make test-full` as it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import runs
from tests.cluster.conftest import Cluster
from tests.example_runs import BASE, NAMES, build_files, check_model, read_example


@pytest.fixture(scope="module", params=["short", pytest.param("whole", marks=pytest.mark.full)])
def length(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def applied(cluster: Cluster, length: str) -> Iterator[str]:
    """All examples, the one that the others start from finished; gives the prefix of everything in the bucket."""
    prefix, is_short = f"examples-{length}", length == "short"
    for name, data in build_files(is_short=is_short).items():
        cluster.s3().put_object(Bucket=runs.BUCKET, Key=f"{prefix}/corpora/{name}", Body=data)
    quota = {"hard": {"requests.nvidia.com/gpu": "4"}}
    cluster.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "examples"}, "spec": quota})
    manifests = {name: read_example(name, f"s3://{runs.BUCKET}/{prefix}", is_short=is_short) for name in NAMES}
    runs.apply(cluster, manifests[BASE])
    runs.wait_for_phase(cluster, BASE, "Succeeded", deadline_s=240 if is_short else 1800)
    for manifest in manifests.values():
        runs.apply(cluster, manifest)
    yield prefix
    cluster.kubectl("delete", "resourcequota/examples", *(f"trainingrun/{name}" for name in NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_succeeds_and_its_model_opens_without_us(
    cluster: Cluster, applied: str, length: str, name: str, tmp_path: Path
) -> None:
    finished = runs.wait_for_phase(cluster, name, "Succeeded", deadline_s=240 if length == "short" else 1800)
    key = f"{applied}/{name}/model/"
    assert finished["result"]["uri"] == f"s3://{runs.BUCKET}/{key.rstrip('/')}"
    assert finished["result"]["after"]["domainLoss"] > 0
    for found in cluster.s3().list_objects_v2(Bucket=runs.BUCKET, Prefix=key)["Contents"]:
        cluster.s3().download_file(runs.BUCKET, found["Key"], str(tmp_path / found["Key"].removeprefix(key)))
    check_model(tmp_path, cluster.get_json("trainingrun", name)["spec"]["objective"])
