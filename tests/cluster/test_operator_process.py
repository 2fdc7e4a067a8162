"""The operator as a process, against a real API server: it starts, leads, hands over and ends as it should."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import yaml
from runyard.api.trainingrun import API_VERSION, LABEL_RUN, LABEL_RUN_UID

from tests.cluster.lab import BODIES, POD_SPEC, SPEC
from tests.cluster.local_cluster import Cluster, install_crds
from tests.cluster.operator_process import Namespace, Operator, wait_for_leader
from tests.nameless import NAMELESS
from tests.ports import free_port
from tests.waiting import wait_until

TAKEOVER_DEADLINE_S = 40
"""The lease's 15 s, a retry period, and time for a busy machine."""


def test_a_run_gets_its_first_job_and_a_status_and_then_nothing_is_written(namespace: Namespace) -> None:
    with namespace.operator("a") as operator:
        wait_for_leader(operator)
        namespace.apply_run("cpt")
        wait_until(lambda: namespace.phase("cpt") == "Preparing", 30)
        assert [job["metadata"]["name"] for job in namespace.get("jobs")["items"]] == ["cpt-prepare"]
        settle(operator)
        told = [line for line in map(json.loads, operator.log.read_text().splitlines()) if "/cpt:" in line["message"]]
        want = f"{namespace.name}/cpt: new -> Preparing, attempt 0, Preparing: checking the output"
        assert [(line["level"], line["message"][: len(want)]) for line in told] == [("INFO", want)]
        writes = operator.metric(r'runyard_api_requests_total\{method="(POST|PATCH|DELETE)"')
        passes = operator.metric("runyard_reconciles_total")
        namespace.control_plane.kubectl("annotate", "trainingrun", "cpt", "looked=at", "--namespace", namespace.name)
        wait_until(lambda: operator.metric("runyard_reconciles_total") > passes, 30)
        assert operator.metric(r'runyard_api_requests_total\{method="(POST|PATCH|DELETE)"') == writes
        assert operator.metric(r'runyard_reconciles_total\{result="error"') == 0
        assert operator.metric(r'runyard_runs\{phase="Preparing"') == 1


@pytest.mark.parametrize("uid", NAMELESS)
def test_it_leads_and_works_under_a_uid_without_a_name(namespace: Namespace, uid: str) -> None:
    with namespace.operator("a", NAMELESS[uid].prefix(namespace.folder)) as operator:
        wait_for_leader(operator)
        assert namespace.holder() == "a"
        namespace.apply_run("cpt")
        wait_until(lambda: namespace.phase("cpt") == "Preparing", 30)


# ------------------------------------------------------------------------------------------------------ hostile objects

LEVELS = 3000
"""Of JSON: more than Python 3.11 and 3.12 parse, less than the API server stores."""
RUN = {"apiVersion": API_VERSION, "kind": "TrainingRun", "spec": SPEC}
HOSTILE: dict[str, dict[str, Any]] = {
    f"/apis/{API_VERSION}/namespaces/{{}}/trainingruns": RUN,
    "/apis/batch/v1/namespaces/{}/jobs": {"apiVersion": "batch/v1", "kind": "Job", **BODIES["Job"]},
    "/api/v1/namespaces/{}/pods": {"apiVersion": "v1", "kind": "Pod", "spec": POD_SPEC},
    "/api/v1/namespaces/{}/resourcequotas": {"apiVersion": "v1", "kind": "ResourceQuota", "spec": {}},
}


def accepts(namespace: Namespace, path: str, text: str) -> bool:
    """Create the object as it is (without --raw kubectl drops managedFields); return whether it was taken."""
    file = namespace.folder / "object.json"
    file.write_text(text)
    argv = ("create", "--raw", path.format(namespace.name), "-f", str(file))
    return namespace.control_plane.kubectl(*argv, check=False).returncode == 0


def create_deep(namespace: Namespace, path: str, manifest: dict[str, Any], name: str) -> None:
    """Create an object with managedFields that are nested deep: the API server stores those of any kind."""
    fields = {"manager": "somebody", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": "DEEP"}
    managed = fields | {"apiVersion": manifest["apiVersion"], "time": "2026-01-31T12:00:00Z"}
    labels = {LABEL_RUN: "cpt", LABEL_RUN_UID: "somebody-elses"}
    text = json.dumps(manifest | {"metadata": {"name": name, "labels": labels, "managedFields": [managed]}})
    assert accepts(namespace, path, text.replace('"DEEP"', '{"f:a":' * LEVELS + "{}" + "}" * LEVELS))


def test_objects_that_are_nested_too_deep_stop_nobody(namespace: Namespace) -> None:
    for path, manifest in HOSTILE.items():
        create_deep(namespace, path, manifest, "listed")
    with namespace.operator("a") as operator:
        wait_for_leader(operator)
        namespace.apply_run("cpt")
        wait_until(lambda: namespace.phase("cpt") == "Preparing", 30)
        for path, manifest in HOSTILE.items():
            create_deep(namespace, path, manifest, "watched")
        namespace.apply_run("later")
        wait_until(lambda: {namespace.phase(name) for name in ("later", "listed", "watched")} == {"Preparing"}, 30)
        assert operator.process.poll() is None


@pytest.fixture
def _unbounded_config(control_plane: Cluster) -> Iterator[None]:
    """Install the CRD as it was before configurations had bounds."""
    spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec"
    path = f"{spec}/properties/model/properties/scratch/properties/config"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    patch = json.dumps([{"op": "replace", "path": path, "value": schema}])
    control_plane.kubectl("patch", "crd", "trainingruns.runyard.dev", "--type=json", "-p", patch)
    yield
    install_crds(control_plane)


@pytest.mark.usefixtures("_unbounded_config")
@pytest.mark.parametrize("levels", [9, 400, LEVELS])
def test_a_run_whose_spec_is_nested_too_deep_fails_by_itself(namespace: Namespace, levels: int) -> None:
    config = {"model_type": "gpt2", "x": "DEEP"}
    spec = SPEC | {"model": {"scratch": {"config": config, "tokenizer": {"train": {}}}}}
    text = json.dumps(RUN | {"spec": spec, "metadata": {"name": "deep"}}).replace('"DEEP"', "[" * levels + "]" * levels)
    path = next(iter(HOSTILE))
    wait_until(lambda: accepts(namespace, path, text), 30)  # once it has heard of the CRD's change
    with namespace.operator("a") as operator:
        wait_for_leader(operator)
        namespace.apply_run("cpt")
        wait_until(lambda: (namespace.phase("deep"), namespace.phase("cpt")) == ("Failed", "Preparing"), 30)
        message = namespace.read("trainingrun", "deep", "{.status.conditions[0].message}")
        assert "spec.model.scratch.config: config.x[0][0][0] goes beyond the 4 levels" in message


def settle(operator: Operator) -> None:
    """Wait until two looks in a row see no reconcile between them."""
    seen = [-1.0]

    def is_quiet() -> bool:
        seen.append(operator.metric("runyard_reconciles_total"))
        return seen[-5:] == [seen[-1]] * 5 and len(seen) > 20

    wait_until(is_quiet, 60)


@pytest.mark.parametrize(
    ("obstacle", "want"),
    [
        (
            {"kind": "ResourceQuota", "metadata": {"name": "in-the-way"}, "spec": {"hard": {"count/jobs.batch": "0"}}},
            "ApplyFailed",
        ),
        (
            {"kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": "cpt-prepare"}} | BODIES["Job"],
            "NameConflict",
        ),
    ],
    ids=["a quota", "another's Job"],
)
def test_what_keeps_it_from_acting_is_told_in_status_and_it_goes_on_once_that_is_gone(
    namespace: Namespace, obstacle: dict[str, Any], want: str
) -> None:
    def reasons() -> set[str]:
        conditions = namespace.get("trainingrun", "cpt").get("status", {}).get("conditions", [])
        return {condition["reason"] for condition in conditions}

    with namespace.operator("a") as operator:
        wait_for_leader(operator)
        kubectl = namespace.control_plane.kubectl
        kubectl("create", "-n", namespace.name, "-f", "-", input=yaml.safe_dump({"apiVersion": "v1"} | obstacle))
        namespace.apply_run("cpt")
        wait_until(lambda: want in reasons(), 30)
        kubectl("delete", "-n", namespace.name, obstacle["kind"], obstacle["metadata"]["name"])
        wait_until(lambda: namespace.phase("cpt") == "Preparing" and want not in reasons(), 60)


def test_a_run_that_is_deleted_takes_its_job_with_it_and_is_forgotten(namespace: Namespace) -> None:
    with namespace.operator("a") as operator:
        wait_for_leader(operator)
        namespace.apply_run("cpt")
        wait_until(lambda: namespace.phase("cpt"), 30)
        namespace.control_plane.kubectl("delete", "trainingrun", "cpt", "--namespace", namespace.name, "--timeout=20s")
        wait_until(lambda: not namespace.get("jobs")["items"], 60)
        wait_until(lambda: operator.metric("runyard_runs") == 0, 10)


def test_sigterm_ends_it_with_0_and_leaves_the_lease_free(namespace: Namespace) -> None:
    with namespace.operator("a") as operator:
        wait_for_leader(operator)
        assert namespace.holder() == "a"
        assert operator.end(signal.SIGTERM) == 0, operator.log.read_text()
        assert namespace.holder() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["asked to end", "killed"])
def test_the_standby_takes_over_from_a_leader_that_is(namespace: Namespace, number: signal.Signals) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(namespace.operator("a"))
        wait_for_leader(first)
        second = stack.enter_context(namespace.operator("b"))
        wait_until(second.is_ready, 60)
        assert not second.leads()
        first.end(number)
        namespace.apply_run("cpt")
        wait_until(lambda: namespace.phase("cpt"), TAKEOVER_DEADLINE_S)
        assert (second.leads(), namespace.holder()) == (True, "b")


def test_every_line_of_its_log_is_json_and_none_holds_the_token(namespace: Namespace) -> None:
    with namespace.operator("a", RUNYARD_LOG_LEVEL="DEBUG") as operator:
        wait_for_leader(operator)
        namespace.apply_run("cpt")
        wait_until(lambda: namespace.phase("cpt"), 30)
        operator.end(signal.SIGTERM)
        text = operator.log.read_text()
    assert all(json.loads(line)["message"] for line in text.splitlines())
    [user] = yaml.safe_load(namespace.control_plane.kubeconfig.read_text())["users"]
    assert user["user"]["token"] not in text


def unreachable(namespace: Namespace) -> dict[str, str]:
    kubeconfig = yaml.safe_load(namespace.control_plane.kubeconfig.read_text())
    kubeconfig["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{free_port()}"
    (namespace.folder / "unreachable").write_text(yaml.safe_dump(kubeconfig))
    return {"KUBECONFIG": str(namespace.folder / "unreachable")}


@pytest.mark.parametrize(
    ("change", "want"),
    [
        (lambda _: {"RUNYARD_TRAINER_IMAGE": ""}, "RUNYARD_TRAINER_IMAGE is not set"),
        (lambda _: {"RUNYARD_LOG_FORMAT": "xml"}, "RUNYARD_LOG_FORMAT is 'xml'"),
        (lambda namespace: {"KUBECONFIG": str(namespace.folder / "none")}, "no Kubernetes cluster to work with"),
        (unreachable, "Cannot connect to host"),
    ],
    ids=["no trainer image", "unknown log format", "no kubeconfig", "API server away"],
)
def test_what_it_cannot_start_without_is_told_in_one_line_and_ends_it_with_1(
    namespace: Namespace, change: Callable[[Namespace], dict[str, str]], want: str
) -> None:
    with namespace.operator("a", **change(namespace)) as operator:
        assert operator.process.wait(60) == 1
        [line] = operator.log.read_text().splitlines()
        assert want in line


@pytest.mark.full  # kopf tries for 54 s before it gives up
def test_a_watch_that_is_forbidden_ends_it_with_1_so_that_it_is_restarted(namespace: Namespace) -> None:
    kubeconfig = yaml.safe_load(namespace.control_plane.kubeconfig.read_text())
    namespace.control_plane.kubectl("create", "serviceaccount", "nobody", "--namespace", namespace.name)
    token = namespace.control_plane.kubectl("create", "token", "nobody", "--namespace", namespace.name).stdout.strip()
    kubeconfig["users"][0]["user"] = {"token": token}
    (namespace.folder / "nobody").write_text(yaml.safe_dump(kubeconfig))
    with namespace.operator("a", KUBECONFIG=str(namespace.folder / "nobody")) as operator:
        assert operator.process.wait(120) == 1
        assert "forbidden" in operator.log.read_text()
