"""The chart: it renders, a real API server accepts all of it, and it grants what the operator uses and nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from runyard.api.trainingrun import API_VERSION, Phase, TrainingRunStatus
from runyard.cluster.client import ApiError, connect
from runyard.cluster.events import record_event, subject_of
from runyard.cluster.lease import Lease, LeaseKey
from runyard.cluster.objects import collection_path
from runyard.cluster.runs import Cluster, require_crd
from runyard.control.budgets import Bookkeeper
from runyard.decide.values import Delete, Event, Key, Manifest, PatchStatus
from runyard.main import LEASE_NAME

from tests.cluster.chart import CHART, NAMESPACE, apply, helm, render
from tests.cluster.lab import NOW, SPEC, Lab
from tests.cluster.local_cluster import Cluster as ControlPlane

ANTI_AFFINITY = "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]"


@pytest.fixture(scope="module")
def installed(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """Apply the chart for good into a namespace that only takes restricted pods."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name in (NAMESPACE, "team-a", "team-b"):
        control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    apply(control_plane, render(control_plane))
    yield control_plane
    for kind in ("clusterrolebinding", "clusterrole"):
        control_plane.kubectl("delete", kind, "--selector", "app.kubernetes.io/instance=runyard", check=False)


def test_helm_finds_nothing_to_say_against_the_chart(control_plane: ControlPlane) -> None:
    done = helm(control_plane, "lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "setting",
    [
        "unknown=1",
        "replicaCount=0",
        "storage.addressing=dns",
        "storage.endpoint=minio:9000",
        "trainer.memory=lots",
        "log.level=LOUD",
        "image=null",
        "enabled=1",
        "rbac.aggregate=1",
        "prepare.cpu=many",
        "prepare.image=other",
        "imagePullSecrets[0].secret=registry",
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_when_the_chart_is_rendered(
    control_plane: ControlPlane, setting: str
) -> None:
    done = helm(control_plane, "template", "runyard", str(CHART), "--set", setting)
    assert done.returncode != 0
    assert setting.split("=")[0].split(".")[-1] in done.stderr


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("replicaCount=1",),
        ("watchNamespaces={team-a,team-b}",),
        (
            "storage.endpoint=https://s3.example.org",
            "imagePullSecrets[0]=registry",
            "imagePullSecrets[1].name=other-registry",
            "priorityClassName=system-cluster-critical",
            "podAnnotations.team=ml",
            "nodeSelector.pool=cpu",
            "tolerations[0].key=dedicated",
            "tolerations[0].operator=Exists",
            f"{ANTI_AFFINITY}.topologyKey=kubernetes.io/hostname",
            f"{ANTI_AFFINITY}.labelSelector.matchLabels.app=other",
        ),
    ],
    ids=["defaults", "one replica", "chosen namespaces", "every option"],
)
def test_the_api_server_accepts_everything_that_the_chart_renders(
    installed: ControlPlane, settings: tuple[str, ...]
) -> None:
    said = apply(installed, render(installed, *settings), "--dry-run=server")
    assert "Warning" not in said


def test_the_operators_pods_are_allowed_where_only_restricted_pods_are(installed: ControlPlane) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "as-in-the-deployment", "namespace": NAMESPACE}}
    whole = yaml.safe_dump(pod | {"spec": deployed_pod(installed)})
    installed.kubectl("create", "--dry-run=server", "-f", "-", input=whole)
    del pod["metadata"]
    privileged = pod | {
        "metadata": {"name": "p", "namespace": NAMESPACE},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    refused = installed.kubectl("create", "--dry-run=server", "-f", "-", input=yaml.safe_dump(privileged), check=False)
    assert "violates PodSecurity" in refused.stderr, "else the test above shows nothing"


def deployed_pod(control_plane: ControlPlane, *settings: str) -> dict[str, Any]:
    """Return the spec of the operator's pods."""
    [deployment] = [manifest for manifest in render(control_plane, *settings) if manifest["kind"] == "Deployment"]
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def test_replicas_are_spread_among_those_of_their_own_revision(control_plane: ControlPlane) -> None:
    [constraint] = deployed_pod(control_plane)["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert constraint["matchLabelKeys"] == ["pod-template-hash"]


NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
OWN_KEY = f"tolerations[0].key={NOT_READY},tolerations[0].operator=Exists"
OWN_SECONDS = f"{OWN_KEY},tolerations[0].effect=NoExecute,tolerations[0].tolerationSeconds=5"


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ((), [(NOT_READY, 30), (UNREACHABLE, 30)]),
        (("tolerations[0].key=dedicated",), [("dedicated", None), (NOT_READY, 30), (UNREACHABLE, 30)]),
        ((OWN_SECONDS,), [(NOT_READY, 5), (UNREACHABLE, 30)]),
        ((OWN_KEY,), [(NOT_READY, None), (UNREACHABLE, 30)]),
        ((f"{OWN_KEY},tolerations[0].effect=NoSchedule",), [(NOT_READY, None), (NOT_READY, 30), (UNREACHABLE, 30)]),
        (("tolerations[0].operator=Exists",), [(None, None)]),
    ],
    ids=["none", "of another taint", "other seconds", "for ever", "for scheduling alone", "of everything"],
)  # fmt: skip
def test_a_replica_leaves_a_dead_node_after_30_s_unless_a_toleration_says_otherwise(
    installed: ControlPlane, settings: tuple[str, ...], want: list[tuple[str | None, int | None]]
) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "replica", "namespace": NAMESPACE}}
    text = yaml.safe_dump(pod | {"spec": deployed_pod(installed, *settings)})
    created = installed.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=text).stdout
    tolerations = json.loads(created)["spec"]["tolerations"]
    assert [(each.get("key"), each.get("tolerationSeconds")) for each in tolerations] == want


def test_secrets_for_pulling_are_written_as_strings_or_as_in_a_pod(control_plane: ControlPlane) -> None:
    pod = deployed_pod(control_plane, "imagePullSecrets[0]=a,imagePullSecrets[1].name=b")
    assert pod["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]


def test_what_prepare_asks_for_by_default_is_the_administrators(control_plane: ControlPlane) -> None:
    [container] = deployed_pod(control_plane, "prepare.cpu=500m", "prepare.memory=3Gi")["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert (env["RUNYARD_PREPARE_CPU"], env["RUNYARD_PREPARE_MEMORY"]) == ("500m", "3Gi")


@pytest.fixture
def umbrella(control_plane: ControlPlane, tmp_path: Path) -> Path:
    """Write a chart that has ours as a part, switched by a condition."""
    shutil.copytree(CHART, tmp_path / "runyard")
    dependency = {"name": "runyard", "version": ">=0.0.0-0", "repository": "file://../runyard"}
    chart = {"apiVersion": "v2", "name": "platform", "version": "0.1.0"}
    folder = tmp_path / "platform"
    folder.mkdir()
    (folder / "Chart.yaml").write_text(
        yaml.safe_dump(chart | {"dependencies": [dependency | {"condition": "runyard.enabled", "tags": ["ml"]}]})
    )
    done = helm(control_plane, "dependency", "build", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_an_umbrella_chart_switches_it_on_and_off_by_a_condition(control_plane: ControlPlane, umbrella: Path) -> None:
    def objects(*settings: str) -> list[Manifest]:
        flags = [flag for setting in settings for flag in ("--set", setting)]
        done = helm(control_plane, "template", "platform", str(umbrella), *flags)
        assert done.returncode == 0, done.stderr
        return [each for each in yaml.safe_load_all(done.stdout) if each]

    assert objects("runyard.enabled=true") == objects("tags.ml=true") == objects("global.region=eu") == objects()
    assert objects()
    assert objects("runyard.enabled=false") == []
    refused = helm(control_plane, "template", "platform", str(umbrella), "--set", "runyard.enabbled=true")
    assert "enabbled" in refused.stderr


def test_what_helm_says_after_an_install_are_commands_that_exist(installed: ControlPlane) -> None:
    flags = (f"--kubeconfig={installed.kubeconfig}", "--namespace", NAMESPACE, "--dry-run=server", "--skip-crds")
    done = helm(installed, "install", "noted", str(CHART), *flags)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("NOTES:")[1]
    assert "deployment/noted-runyard-operator --timeout=2m" in notes
    assert "may make runs there" in notes
    for line in (line.split() for line in notes.splitlines() if line.startswith("  kubectl")):
        words = [word for word in line[1:] if word not in ("\\", "--watch")]
        assert installed.kubectl(*words, "--help").returncode == 0


def test_two_releases_in_two_namespaces_share_no_object(control_plane: ControlPlane) -> None:
    def names(release: str, namespace: str) -> set[tuple[str, str, str]]:
        done = helm(control_plane, "template", release, str(CHART), "--namespace", namespace)
        return {
            (manifest["kind"], manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"])
            for manifest in yaml.safe_load_all(done.stdout)
        }

    assert not names("runyard", "one") & names("runyard", "two")


# --------------------------------------------------------------------------------------------------------------- rights


def operators_roles(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Return the roles of `kind` that a binding gives to the operator."""
    bound = {each["roleRef"]["name"] for each in manifests if each["kind"] == f"{kind}Binding"}
    return [each for each in manifests if each["kind"] == kind and each["metadata"]["name"] in bound]


def granted(manifests: list[Manifest], kind: str) -> set[tuple[str, str, str]]:
    """Return (resource, verb, name) of every rule of the operator's roles of `kind`."""
    return {
        (resource, verb, name)
        for manifest in operators_roles(manifests, kind)
        for rule in manifest["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def test_the_rights_are_these_and_no_others(control_plane: ControlPlane) -> None:
    manifests = render(control_plane)
    assert granted(manifests, "ClusterRole") == {
        *(("trainingruns", verb, "") for verb in ("get", "list", "watch", "delete")),
        ("trainingruns/status", "patch", ""),
        *(("jobs", verb, "") for verb in ("get", "list", "watch", "create", "delete")),
        ("jobs/status", "patch", ""),
        ("workloads", "list", ""),
        ("workloadpriorityclasses", "list", ""),
        ("localqueues/pendingworkloads", "get", ""),
        *(("pods", verb, "") for verb in ("list", "watch")),
        *((kind, verb, "") for kind in ("services", "configmaps") for verb in ("get", "create")),
        *(("resourcequotas", verb, "") for verb in ("list", "watch")),
        ("priorityclasses", "list", ""),
        ("events", "create", ""),
        *(("gpubudgets", verb, "") for verb in ("get", "list", "watch")),
        ("gpubudgets/status", "patch", ""),
        ("namespaces", "list", ""),
    }
    assert granted(manifests, "Role") == {
        ("leases", "create", ""),
        ("leases", "get", LEASE_NAME),
        ("leases", "update", LEASE_NAME),
        *(("configmaps", verb, "") for verb in ("get", "create", "patch")),
    }


def test_with_chosen_namespaces_the_operator_is_granted_nothing_cluster_wide(control_plane: ControlPlane) -> None:
    manifests = render(control_plane, "watchNamespaces={team-a,team-b}")
    assert not [manifest for manifest in manifests if manifest["kind"] == "ClusterRoleBinding"]
    roles = {(role["metadata"]["namespace"], role["metadata"]["name"]) for role in manifests if role["kind"] == "Role"}
    assert roles == {
        (NAMESPACE, "runyard-operator-lease"),
        ("team-a", "runyard-operator"),
        ("team-b", "runyard-operator"),
    }


@pytest.fixture
def _as_the_operator(installed: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `connect()` find the control plane, as the operator's ServiceAccount."""
    token = installed.kubectl("create", "token", "runyard-operator", "--namespace", NAMESPACE).stdout.strip()
    kubeconfig: dict[str, Any] = yaml.safe_load(installed.kubeconfig.read_text())
    for user in kubeconfig["users"]:
        user["user"] = {"token": token}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.mark.usefixtures("_as_the_operator")
def test_the_rights_suffice_for_all_that_the_operator_reads_and_writes(installed: ControlPlane) -> None:
    run_manifest = {
        "apiVersion": API_VERSION,
        "kind": "TrainingRun",
        "metadata": {"name": "cpt", "namespace": "team-a"},
        "spec": SPEC,
    }
    installed.apply(run_manifest)
    budget = {"apiVersion": API_VERSION, "kind": "GPUBudget", "metadata": {"name": "ml"}}
    installed.apply(budget | {"spec": {"gpuHours": 1, "action": "Block"}})

    async def main() -> None:
        async with connect() as kube:
            await require_crd(kube)
            lease = Lease(kube, LeaseKey(NAMESPACE, LEASE_NAME, "test"))
            for _ in range(2):
                await lease.try_once()
            lab = Lab(kube, Cluster(kube, lease.is_leader), Key("team-a", "cpt"))
            run = await lab.read_run()
            for kind in ("ConfigMap", "Service", "Job"):
                await lab.create(run, lab.build(kind, "cpt-own", run.uid))
                await lab.create(run, lab.build(kind, "cpt-own", run.uid))
            job = (await lab.cluster.observe(run)).jobs[0]["metadata"]
            assert (await lab.cluster.observe_namespace(run)).quotas == ()
            await lab.cluster.patch_status(run, TrainingRunStatus(phase=Phase.PENDING, conditions=[]))
            await record_event(lab.cluster, subject_of(run), "", Event("Normal", "Tested", ""), "test", NOW)
            assert len((await kube.get(collection_path("batch/v1", "team-a", "jobs")))["items"]) == 1
            patch = PatchStatus("Job", "cpt-own", job["resourceVersion"], {"active": 0, "ready": 0})
            assert not (await lab.cluster.apply(run, [patch])).failed
            job = (await lab.cluster.observe(run)).jobs[0]["metadata"]
            await lab.cluster.apply(run, [Delete("Job", "cpt-own", job["uid"], job["resourceVersion"])])
            bookkeeper = Bookkeeper(lab.cluster, NAMESPACE, "test", later=lambda *_: None, wake=lambda _: None)
            for cost in (0, 7200):
                bookkeeper.note(lab.key, run.uid, cost)
                assert await bookkeeper.reconcile("ml")
            assert "GPUBudget ml: 2.00 of 1 GPU-hours" in (await bookkeeper.why_blocked("team-a") or "")
            await lease.release()

    asyncio.run(main())
    assert installed.kubectl("get", "gbud", "ml").stdout.splitlines()[1].split()[:6] == [
        "ml",
        "2.00",
        "1",
        "30",
        "Block",
        "True",
    ]
    described = installed.kubectl("describe", "gpubudget", "ml").stdout
    assert re.search(r"Warning +UsedUp .* 2\.00 of 1 GPU-hours of the last 30 days are used", described)
    installed.kubectl("delete", "gpubudget", "ml")
    events = installed.get_json("events", "--namespace", "team-a")["items"]
    assert "Tested" in {event["reason"] for event in events}


@pytest.mark.usefixtures("_as_the_operator")
@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/namespaces/team-a/secrets",
        "/api/v1/namespaces/team-a/secrets/runyard-s3",
        "/api/v1/namespaces/team-a",
        "/api/v1/nodes",
        "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases",
        f"/api/v1/namespaces/{NAMESPACE}/pods/any/log",
    ],
)
def test_what_is_not_the_operators_business_is_forbidden_to_it(path: str) -> None:
    async def main() -> None:
        async with connect() as kube:
            with pytest.raises(ApiError) as caught:
                await kube.get(path)
            assert caught.value.status == 403

    asyncio.run(main())
