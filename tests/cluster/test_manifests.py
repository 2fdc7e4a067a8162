"""What is rendered, before the real API server: taken to the letter, and restricted enough for a strict namespace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from runyard.decide.manifests import build_config_map, build_prepare_job, build_service, build_train_job, resolve_recipe
from runyard.decide.rules.kueue import build_place
from runyard.decide.values import Manifest

from tests.builders import SETTINGS, make_run, make_spec
from tests.cluster.local_cluster import Cluster

RUN, SPEC = make_run(), make_spec()
MANIFESTS: dict[str, Manifest] = {
    "ConfigMap": build_config_map(RUN, resolve_recipe(RUN, SPEC, SETTINGS)),
    "Service": build_service(RUN),
    "prepare Job": build_prepare_job(RUN, SPEC, SETTINGS),
    "train Job": build_train_job(RUN, SPEC, SETTINGS, 1),
    "place Job": build_place(RUN, make_spec(queue={"name": "gpus"}), SETTINGS),
}


@pytest.fixture(scope="module", autouse=True)
def _restricted_namespace(control_plane: Cluster) -> Iterator[None]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    control_plane.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": RUN.namespace, "labels": labels}}
    )
    control_plane.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": RUN.namespace}}
    )
    yield
    control_plane.kubectl("delete", "namespace", RUN.namespace, "--wait=false")


def create(cluster: Cluster, manifest: Manifest, *, check: bool = True) -> str:
    """Return what the API server says of the object, without keeping it."""
    arguments = ("create", "--dry-run=server", "--validate=strict", "-f", "-")
    return cluster.kubectl(*arguments, input=yaml.safe_dump(manifest), check=check).stderr


@pytest.mark.parametrize("what", MANIFESTS)
def test_it_is_taken_without_a_warning(control_plane: Cluster, what: str) -> None:
    assert create(control_plane, MANIFESTS[what]) == ""


@pytest.mark.parametrize("what", ["prepare Job", "train Job"])
def test_its_pods_may_run_where_only_restricted_ones_may(control_plane: Cluster, what: str) -> None:
    template = MANIFESTS[what]["spec"]["template"]
    metadata = {"name": "cpt-a1-0", "namespace": RUN.namespace, "labels": template["metadata"]["labels"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    assert create(control_plane, pod) == ""
    careless = {**pod, "spec": {**pod["spec"], "securityContext": {}}}
    assert "violates PodSecurity" in create(control_plane, careless, check=False)
