"""Every manifest of examples/ ends Succeeded, and its model opens with the class that its users know, without us.

`make test` trains each for a few steps; `make test-full` as it is written.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster import runs
from tests.cluster.local_cluster import Cluster
from tests.example_runs import BASE, NAMES, build_files, check_models, read_example

RUNS_AT_ONCE = 2
"""A small machine has two CPUs."""

WHOLE = pytest.param("whole", 1800, marks=[pytest.mark.full, pytest.mark.timeout(7200)])


@pytest.mark.parametrize(("length", "deadline_s"), [("short", 180), WHOLE])
def test_every_example_succeeds_and_its_model_opens_without_us(
    cluster: Cluster, tmp_path: Path, length: str, deadline_s: float
) -> None:
    prefix, is_short = f"examples-{length}", length == "short"
    for name, data in build_files(is_short=is_short).items():
        cluster.s3().put_object(Bucket=runs.BUCKET, Key=f"{prefix}/corpora/{name}", Body=data)
    objectives = {}

    def run_and_download(name: str) -> None:
        manifest = read_example(name, f"s3://{runs.BUCKET}/{prefix}", is_short=is_short)
        runs.apply(cluster, manifest)
        finished = runs.wait_for_phase(cluster, name, "Succeeded", deadline_s=deadline_s)
        assert finished["result"]["uri"] == f"s3://{runs.BUCKET}/{prefix}/{name}/model"
        assert finished["result"]["after"]["domainLoss"] > 0
        objectives[download(cluster, f"{prefix}/{name}/model/", tmp_path / name)] = manifest["spec"]["objective"]

    run_and_download(BASE)
    with ThreadPoolExecutor(RUNS_AT_ONCE) as pool:
        list(pool.map(run_and_download, (name for name in NAMES if name != BASE)))
    check_models(objectives)
    cluster.kubectl("delete", *(f"trainingrun/{name}" for name in NAMES))


def download(cluster: Cluster, prefix: str, folder: Path) -> Path:
    """Download everything below the prefix into a new folder."""
    folder.mkdir()
    for found in cluster.s3().list_objects_v2(Bucket=runs.BUCKET, Prefix=prefix)["Contents"]:
        cluster.s3().download_file(runs.BUCKET, found["Key"], str(folder / found["Key"].removeprefix(prefix)))
    return folder
