"""A real Kueue for an instance of `runyard local`: built once into the cache, run as a process beside the instance."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from runyard_local.programs.binaries import Module, find_or_build_module
from runyard_local.programs.gobuild import prepare_go
from runyard_local.servers.certs import make_certs

from tests.cluster.local_cluster import Cluster
from tests.ports import free_port
from tests.waiting import wait_until

VERSION = "0.19.2"
CERTS = "etc/kueue/metrics/certs"
GOMODS = Path(__file__).parents[1] / "gomods"
KUEUE = Module("kueue", VERSION, {"kueue": "sigs.k8s.io/kueue/cmd/kueue"}, gomods=GOMODS)
WEBHOOKS = re.compile(
    r"^[mv](job|clusterqueue|cohort|resourceflavor|workload|localqueue|admissioncheck|workloadpriorityclass)\.kb\.io$"
)
"""Of what is used here; the others are about kinds that the instance does not know."""


@dataclass
class Kueue:
    """A running Kueue."""

    argv: list[str]
    log: Path
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it serves its webhooks."""
        with self.log.open("wb") as log:
            process = self._process = subprocess.Popen(self.argv, stderr=log, stdout=log)
        wait_until(lambda: process.poll() is not None or "Serving webhook" in self.log.read_text(), 60)
        assert process.poll() is None, self.log.read_text()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def run_kueue(cluster: Cluster, folder: Path) -> Iterator[Kueue]:
    """Install and run it, until the end of the context."""
    program = find_or_build_module(KUEUE)["kueue"]
    make_certs(folder / "certs")
    root = folder / "root"  # some of its paths are fixed: it has a root of its own
    for certs in (root / CERTS, root / "visibility"):
        certs.mkdir(parents=True)
        for kind in ("crt", "key"):
            (certs / f"tls.{kind}").write_bytes((folder / "certs" / f"apiserver.{kind}").read_bytes())
    port, visibility_port = free_port(), free_port()
    config = build_config(port, visibility_port, health_port=free_port())
    (root / "kueue.yaml").write_text(yaml.safe_dump(config))
    (root / "kubeconfig").write_text(cluster.kubectl("config", "view", "--flatten", "--raw").stdout)
    shutil.copy(program, root / "kueue")
    sandbox = ["unshare", "--user", "--map-root-user", "--root", str(root)]
    argv = ["/kueue", "--config", "/kueue.yaml", "--kubeconfig", "/kubeconfig"]
    crds, webhooks = read_manifests(port, base64.b64encode((folder / "certs" / "ca.crt").read_bytes()).decode())
    cluster.kubectl("create", "namespace", "kueue-system")
    install(cluster, crds)
    wait_until(lambda: all(map(is_established, cluster.get_json("crd")["items"])), 60)
    kueue = Kueue([*sandbox, *argv], folder / "kueue.log")
    try:
        kueue.start()
        install(cluster, webhooks)
        install(cluster, build_visibility_service(visibility_port))
        yield kueue
    finally:
        kueue.kill()


def is_established(crd: dict[str, Any]) -> bool:
    conditions = crd.get("status", {}).get("conditions") or ()
    return any((condition["type"], condition["status"]) == ("Established", "True") for condition in conditions)


def install(cluster: Cluster, manifests: list[dict[str, Any]]) -> None:
    cluster.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(manifests))


def build_config(port: int, visibility_port: int, health_port: int) -> dict[str, Any]:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": "kueue-system",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health_port}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": f"/{CERTS}"},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "integrations": {"frameworks": ["batch/job"]},
        "visibilityServer": {"bindAddress": "127.0.0.1", "bindPort": visibility_port},
    }


def build_visibility_service(port: int) -> list[dict[str, Any]]:
    """Build the visibility API, which the instance's API server asks on loopback, after it has checked who may.

    The instance has no front proxy's certificate, so the server behind does not know for whom it is asked: it answers
    everybody that reaches it.
    """
    name, version = "visibility.kueue.x-k8s.io", "v1beta2"
    service = {"name": "visibility", "namespace": "kueue-system"}
    api = {"group": name, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100}
    behind = {"insecureSkipTLSVerify": True, "service": service | {"port": port}}
    rbac, anyone = "rbac.authorization.k8s.io", {"metadata": {"name": "visibility"}}
    rules = [
        {"nonResourceURLs": [f"/apis/{name}/{version}"], "verbs": ["get"]},
        {"apiGroups": [name], "resources": ["localqueues/pendingworkloads"], "verbs": ["get"]},
    ]
    role = {"apiGroup": rbac, "kind": "ClusterRole", "name": "visibility"}
    subject = {"apiGroup": rbac, "kind": "User", "name": "system:anonymous"}
    external = {"type": "ExternalName", "externalName": "localhost"}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": service, "spec": external},
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", **anyone, "rules": rules},
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRoleBinding", **anyone, "roleRef": role, "subjects": [subject]},
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{version}.{name}"},
            "spec": api | behind,
        },
    ]


def read_manifests(port: int, authority: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read the CRDs and webhooks of the version that is built; both reach it on loopback."""
    components = find_sources() / "config" / "components"
    crds = [
        yaml.safe_load((components / "crd" / name).read_text())
        for name in yaml.safe_load((components / "crd" / "kustomization.yaml").read_text())["resources"]
    ]
    patches = yaml.safe_load((components / "crd" / "kustomization.yaml").read_text())["patches"]
    for patch in patches:
        conversion = yaml.safe_load((components / "crd" / patch["path"]).read_text())
        crd = next(crd for crd in crds if crd["metadata"]["name"] == conversion["metadata"]["name"])
        crd["spec"]["conversion"] = conversion["spec"]["conversion"]
        point_at(crd["spec"]["conversion"]["webhook"]["clientConfig"], port, authority)
    webhooks = list(yaml.safe_load_all((components / "webhook" / "manifests.yaml").read_text()))
    for configuration in webhooks:
        configuration["metadata"]["name"] = f"kueue-{configuration['metadata']['name']}"
        configuration["webhooks"] = [hook for hook in configuration["webhooks"] if WEBHOOKS.match(hook["name"])]
        for hook in configuration["webhooks"]:
            point_at(hook["clientConfig"], port, authority)
    return crds, webhooks


def point_at(client: dict[str, Any], port: int, authority: str) -> None:
    path = client.pop("service", {}).get("path", "/convert")
    client |= {"url": f"https://127.0.0.1:{port}{path}", "caBundle": authority}


def find_sources() -> Path:
    """Return where Go keeps the module."""
    folder = GOMODS / "kueue"
    environment = prepare_go((1, 26))
    subprocess.run(["go", "mod", "download", "sigs.k8s.io/kueue"], cwd=folder, env=environment, check=True)
    argv = ["go", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kueue"]
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


API = {"apiVersion": "kueue.x-k8s.io/v1beta2"}


def make_queues(cluster: Cluster, gpus: int) -> None:
    """Make LocalQueue `gpus` of so many GPUs in namespace default, and the priority classes `low` and `high`."""
    labels = {"nodeLabels": {"kubernetes.io/os": "linux"}}
    install(
        cluster,
        [
            API | {"kind": "ResourceFlavor", "metadata": {"name": "linux"}, "spec": labels},
            *build_queue("gpus", gpus, preemption={"withinClusterQueue": "LowerPriority"}),
            build_priority_class("low", 10),
            API | {"kind": "WorkloadPriorityClass", "metadata": {"name": "high"}, "value": 1000},
        ],
    )


def make_multikueue_queue(cluster: Cluster) -> None:
    """Make LocalQueue `far`, which sends what it admits to another cluster."""
    parameters = {"apiGroup": "kueue.x-k8s.io", "kind": "MultiKueueConfig", "name": "far"}
    check = {"controllerName": "kueue.x-k8s.io/multikueue", "parameters": parameters}
    source = {"kubeConfig": {"locationType": "Secret", "location": "far"}}
    far = {"metadata": {"name": "far"}}
    install(
        cluster,
        [
            API | far | {"kind": "MultiKueueCluster", "spec": {"clusterSource": source}},
            API | far | {"kind": "MultiKueueConfig", "spec": {"clusters": ["far"]}},
            API | far | {"kind": "AdmissionCheck", "spec": check},
            *build_queue("far", 2, admissionChecksStrategy={"admissionChecks": [{"name": "far"}]}),
        ],
    )


def build_queue(name: str, gpus: int, **fields: Any) -> list[dict[str, Any]]:
    """Build a ClusterQueue and its LocalQueue in namespace default."""
    quotas = {"cpu": "1000", "memory": "1000Gi", "nvidia.com/gpu": str(gpus)}
    resources = [{"name": resource, "nominalQuota": amount} for resource, amount in quotas.items()]
    group = {"coveredResources": list(quotas), "flavors": [{"name": "linux", "resources": resources}]}
    spec = {"namespaceSelector": {}, "resourceGroups": [group], **fields}
    local = {"metadata": {"name": name, "namespace": "default"}, "spec": {"clusterQueue": name}}
    return [
        API | {"kind": "ClusterQueue", "metadata": {"name": name}, "spec": spec},
        API | {"kind": "LocalQueue"} | local,
    ]


def build_priority_class(name: str, value: int) -> dict[str, Any]:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
        "preemptionPolicy": "Never",
    }


if __name__ == "__main__":
    find_or_build_module(KUEUE)  # minutes, the first time: before the tests, whose time is limited
