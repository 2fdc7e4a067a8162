"""The objects of a run, whole: what is written here is what the API server gets."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from runyard.api.trainingrun import MAX_NAME_LENGTH
from runyard.decide.manifests import (
    build_config_map,
    build_prepare_job,
    build_service,
    build_train_job,
    choose_master_port,
    name_config_map,
    name_prepare_job,
    name_service,
    name_train_job,
    resolve_recipe,
)
from runyard.decide.rules.kueue import build_place
from runyard.decide.values import Manifest, Settings

from tests.builders import SETTINGS, make_run, make_spec

RECIPE = resolve_recipe(make_run(), make_spec(), SETTINGS)
OWNER = {
    "apiVersion": "runyard.dev/v1alpha1",
    "kind": "TrainingRun",
    "name": "cpt",
    "uid": "uid-1",
    "controller": True,
    "blockOwnerDeletion": False,
}
LABELS = {"runyard.dev/run-uid": "uid-1", "runyard.dev/run": "cpt"}
RUN_ENV: list[dict[str, Any]] = [
    {"name": "RUNYARD_RUN_UID", "value": "uid-1"},
    {"name": "RUNYARD_RUN_NAME", "value": "cpt"},
    {"name": "RUNYARD_NAMESPACE", "value": "team-a"},
    {"name": "HOME", "value": "/tmp"},
    {"name": "USER", "value": "runyard"},
    {"name": "HF_HUB_OFFLINE", "value": "1"},
]
STORAGE_ENV: list[dict[str, Any]] = [
    {"name": name, "valueFrom": {"secretKeyRef": {"name": "runyard-s3", "key": name, **optional}}}
    for name, optional in (
        ("AWS_ACCESS_KEY_ID", {}),
        ("AWS_SECRET_ACCESS_KEY", {}),
        ("AWS_SESSION_TOKEN", {"optional": True}),
    )
]


def want_metadata(name: str, **labels: str) -> dict[str, Any]:
    return {"name": name, "namespace": "team-a", "labels": LABELS | labels, "ownerReferences": [OWNER]}


def want_pod(
    command: list[str], env: list[dict[str, Any]], amounts: dict[str, str], **container: Any
) -> dict[str, Any]:
    """What pods that prepare and pods that train have in common."""
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [
            {
                "key": "node.kubernetes.io/not-ready",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 30,
            },
            {
                "key": "node.kubernetes.io/unreachable",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 30,
            },
        ],
        "containers": [
            {
                "name": "trainer",
                "image": "trainer:1",
                "command": command,
                "env": env,
                "resources": {"requests": amounts, "limits": amounts},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                },
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [
                    {"name": "recipe", "mountPath": "/etc/runyard", "readOnly": True},
                    {"name": "tmp", "mountPath": "/tmp"},
                ],
                **container,
            }
        ],
        "volumes": [
            {"name": "recipe", "configMap": {"name": f"cpt-recipe-{RECIPE.digest}"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def test_the_config_map_holds_the_recipe_with_the_settings_filled_in() -> None:
    manifest = build_config_map(make_run(), RECIPE)
    recipe = json.loads(manifest["data"].pop("recipe.json"))
    assert manifest == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": want_metadata(f"cpt-recipe-{RECIPE.digest}"),
        "immutable": True,
        "data": {},
    }
    assert recipe["storage"] == {
        "endpoint": "http://s3:9000",
        "region": "us-east-1",
        "addressing": "path",
        "secretName": "runyard-s3",
        "fencing": "conditional-writes",
    }
    assert recipe["model"] == {"uri": "s3://models/base"}
    assert not {"compute", "recovery", "suspend"} & recipe.keys()


def test_what_a_run_says_of_its_storage_goes_before_the_settings() -> None:
    own = {"endpoint": "https://mine", "region": "eu-1", "addressing": "virtual", "secretName": "keys"}
    recipe = resolve_recipe(make_run(), make_spec(storage=own), SETTINGS)
    assert recipe.storage.model_dump(by_alias=True) == own | {"fencing": "conditional-writes"}


def test_the_service_names_training_pods_before_they_are_ready() -> None:
    assert build_service(make_run()) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": want_metadata("cpt-ranks", **{"runyard.dev/role": "train"}),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"runyard.dev/run-uid": "uid-1", "runyard.dev/role": "train"},
            "ports": [{"name": "progress", "port": 8470, "targetPort": "progress", "protocol": "TCP"}],
        },
    }


def test_the_prepare_job_needs_no_gpu_and_fails_at_once_on_what_will_not_mend() -> None:
    role = {"runyard.dev/role": "prepare"}
    amounts = {"cpu": "1", "memory": "4Gi"}
    pod = want_pod(["python", "-m", "runyard_trainer", "prepare"], [*RUN_ENV, *STORAGE_ENV], amounts)
    pod["terminationGracePeriodSeconds"] = 30
    fatal_codes = [64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 76, 77, 78]
    assert build_prepare_job(make_run(), make_spec(), SETTINGS) == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**want_metadata("cpt-prepare", **role), "annotations": {"runyard.dev/asked": "{}"}},
        "spec": {
            "completionMode": "Indexed",
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 3,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "trainer", "operator": "In", "values": fatal_codes},
                    },
                ]
            },
            "template": {"metadata": {"labels": LABELS | role}, "spec": pod},
        },
    }


def test_an_attempt_is_one_job_with_a_pod_for_each_node() -> None:
    labels = {"runyard.dev/role": "train", "runyard.dev/attempt": "3"}
    port = choose_master_port("uid-1", 3)
    env = [
        *RUN_ENV,
        {"name": "RUNYARD_ATTEMPT", "value": "3"},
        {"name": "RUNYARD_NODES", "value": "2"},
        {"name": "RUNYARD_PROCESSES_PER_NODE", "value": "4"},
        {"name": "RUNYARD_GPUS_PER_NODE", "value": "4"},
        {"name": "RUNYARD_GPU_RESOURCE_NAME", "value": "nvidia.com/gpu"},
        {"name": "RUNYARD_GRACE_SECONDS", "value": "120"},
        {"name": "RUNYARD_STALL_SECONDS", "value": "600"},
        {"name": "RUNYARD_ON_STALL", "value": "Restart"},
        {"name": "MASTER_ADDR", "value": "cpt-a3-0.cpt-ranks"},
        {"name": "MASTER_PORT", "value": str(port)},
        {"name": "OMP_NUM_THREADS", "value": "1"},
        {"name": "RUNYARD_POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        *STORAGE_ENV,
    ]
    pod = want_pod(
        ["python", "-m", "runyard_trainer.launch"],
        env,
        {"cpu": "1", "memory": "4Gi", "nvidia.com/gpu": "4"},
        ports=[{"name": "progress", "containerPort": 8470, "protocol": "TCP"}],
    )
    pod |= {"subdomain": "cpt-ranks", "terminationGracePeriodSeconds": 120}
    pod["tolerations"].append({"key": "nvidia.com/gpu", "operator": "Exists"})
    pod["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}})
    pod["containers"][0]["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})
    assert build_train_job(make_run(), make_spec(), SETTINGS, 3) == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": want_metadata("cpt-a3", **labels),
        "spec": {
            "completionMode": "Indexed",
            "completions": 2,
            "parallelism": 2,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "template": {"metadata": {"labels": LABELS | labels}, "spec": pod},
        },
    }


def container_of(job: Manifest) -> dict[str, Any]:
    container: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return container


def env_of(job: Manifest) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container_of(job)["env"] if "value" in entry}


def test_what_a_run_says_of_its_pods_goes_before_the_settings() -> None:
    compute = {
        "nodes": 1,
        "gpusPerNode": 8,
        "gpuResourceName": "amd.com/gpu",
        "processesPerNode": 2,
        "image": "mine:2",
        "resources": {"cpu": "16", "memory": "64Gi"},
        "sharedMemory": "8Gi",
    }
    spec = make_spec(compute=compute, recovery={"terminationGracePeriodSeconds": 7})
    job = build_train_job(make_run(), spec, SETTINGS, 1)
    container, pod = container_of(job), job["spec"]["template"]["spec"]
    amounts = {"cpu": "16", "memory": "64Gi", "amd.com/gpu": "8"}
    assert container["resources"] == {"requests": amounts, "limits": amounts}
    assert container["image"] == "mine:2"
    assert pod["terminationGracePeriodSeconds"] == 7
    assert pod["volumes"][2]["emptyDir"]["sizeLimit"] == "8Gi"
    env = env_of(job)
    assert (env["RUNYARD_PROCESSES_PER_NODE"], env["OMP_NUM_THREADS"], env["RUNYARD_GRACE_SECONDS"]) == ("2", "8", "7")
    assert (env["RUNYARD_GPUS_PER_NODE"], env["RUNYARD_GPU_RESOURCE_NAME"]) == ("8", "amd.com/gpu")


GPU_NODE = {"resources": {"cpu": "96", "memory": "1000Gi"}, "sharedMemory": "64Gi"}


def test_prepare_has_resources_of_its_own_and_nothing_of_what_training_asks_for() -> None:
    compute = {"nodes": 2, "gpusPerNode": 8, **GPU_NODE}
    settings = replace(SETTINGS, default_cpu="32", default_memory="256Gi", prepare_cpu="2", prepare_memory="6Gi")

    def prepare(**own: Any) -> Manifest:
        return build_prepare_job(make_run(), make_spec(compute=compute, **own), settings)

    amounts = {"cpu": "2", "memory": "6Gi"}
    assert container_of(prepare())["resources"] == {"requests": amounts, "limits": amounts}
    assert "64Gi" not in json.dumps(prepare())
    for own, want in (
        ({"cpu": "8", "memory": "32Gi"}, {"cpu": "8", "memory": "32Gi"}),
        ({"memory": "32Gi"}, {"cpu": "2", "memory": "32Gi"}),
    ):
        asked = container_of(prepare(prepare={"resources": own}))["resources"]
        assert asked == {"requests": want, "limits": want}
        trained = build_train_job(make_run(), make_spec(compute=compute, prepare={"resources": own}), settings, 1)
        assert container_of(trained)["resources"]["requests"] == {
            "cpu": "96",
            "memory": "1000Gi",
            "nvidia.com/gpu": "8",
        }


def test_pods_with_gpus_tolerate_a_taint_that_is_named_as_their_gpus_and_others_do_not() -> None:
    def keys(job: Manifest) -> set[str]:
        return {each["key"] for each in job["spec"]["template"]["spec"]["tolerations"]} - {
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable",
        }

    amd = make_spec(compute={"gpusPerNode": 8, "gpuResourceName": "amd.com/gpu"})
    queued = make_spec(queue={"name": "gpus"})
    run = make_run()
    assert keys(build_train_job(run, make_spec(), SETTINGS, 1)) == {"nvidia.com/gpu"}
    assert keys(build_train_job(run, amd, SETTINGS, 1)) == {"amd.com/gpu"}
    assert keys(build_place(run, queued, SETTINGS)) == {"nvidia.com/gpu"}, "Kueue looks at the place's tolerations"
    assert keys(build_train_job(run, make_spec(compute={"gpusPerNode": 0}), SETTINGS, 1)) == set()
    assert keys(build_prepare_job(run, amd, SETTINGS)) == set()


def test_the_judges_key_comes_from_the_secret_that_the_run_names_and_from_nowhere_else() -> None:
    judge = {"endpoint": "http://judge/v1", "model": "j", "prompts": {"uri": "s3://p/p.jsonl"}}
    named = make_spec(evaluation={"judge": {**judge, "secretName": "judge-key"}})
    want = {
        "name": "JUDGE_API_KEY",
        "valueFrom": {"secretKeyRef": {"name": "judge-key", "key": "JUDGE_API_KEY"}},
    }
    for spec, has_key in ((named, True), (make_spec(evaluation={"judge": judge}), False)):
        for job in (build_prepare_job(make_run(), spec, SETTINGS), build_train_job(make_run(), spec, SETTINGS, 1)):
            assert (want in container_of(job)["env"]) == has_key
            assert ("JUDGE_API_KEY" in json.dumps(job)) == has_key


def test_mlflows_credentials_come_from_the_secret_that_the_run_names_and_from_nowhere_else() -> None:
    mlflow = {"uri": "http://mlflow:5000"}
    named = make_spec(tracking={"mlflow": {**mlflow, "secretName": "mlflow-key"}})
    want = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": "mlflow-key", "key": key, "optional": True}}}
        for key in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    ]
    for spec, has_keys in ((named, True), (make_spec(tracking={"mlflow": mlflow}), False)):
        for job in (build_prepare_job(make_run(), spec, SETTINGS), build_train_job(make_run(), spec, SETTINGS, 1)):
            assert all((each in container_of(job)["env"]) == has_keys for each in want)
            assert ("MLFLOW_TRACKING" in json.dumps(job)) == has_keys


def test_a_run_without_gpus_asks_for_none() -> None:
    job = build_train_job(make_run(), make_spec(compute={"gpusPerNode": 0}), SETTINGS, 1)
    assert container_of(job)["resources"]["limits"] == {"cpu": "1", "memory": "4Gi"}
    assert (env_of(job)["RUNYARD_PROCESSES_PER_NODE"], env_of(job)["RUNYARD_GPUS_PER_NODE"]) == ("1", "0")


@pytest.mark.parametrize(
    ("cpu", "processes", "threads"),
    [("16", 4, "4"), ("500m", 1, "1"), ("2500m", 1, "2"), ("1.5", 1, "1"), ("7", 2, "3"), ("1", 8, "1")],
)
def test_a_rank_has_its_share_of_the_pods_threads_and_at_least_one(cpu: str, processes: int, threads: str) -> None:
    spec = make_spec(compute={"processesPerNode": processes, "resources": {"cpu": cpu}})
    assert env_of(build_train_job(make_run(), spec, SETTINGS, 1))["OMP_NUM_THREADS"] == threads


def test_master_ports_differ_between_attempts_and_runs_and_stay_in_their_range() -> None:
    ports = [choose_master_port(f"uid-{run}", attempt) for run in range(20) for attempt in range(1, 6)]
    assert min(ports) >= 20000
    assert max(ports) <= 29999
    assert len(set(ports)) > 95
    assert ports == [choose_master_port(f"uid-{run}", attempt) for run in range(20) for attempt in range(1, 6)]


def test_another_recipe_has_another_config_map() -> None:
    other = resolve_recipe(make_run(), make_spec(), Settings(trainer_image="x", storage_endpoint="http://elsewhere"))
    assert name_config_map(make_run(), other) != name_config_map(make_run(), RECIPE)


def test_names_of_the_longest_run_with_the_largest_job_are_dns_labels() -> None:
    run = replace(make_run(), name="n" * MAX_NAME_LENGTH)
    pod_host = f"{name_train_job(run, 99_999)}-1023"
    for name in (name_prepare_job(run), name_service(run), name_config_map(run, RECIPE), pod_host):
        assert len(name) <= 63


def test_manifests_share_nothing() -> None:
    first, second = (build_train_job(make_run(), make_spec(), SETTINGS, 1) for _ in range(2))
    first["spec"]["template"]["metadata"]["labels"]["changed"] = "yes"
    container_of(first)["resources"]["limits"]["cpu"] = "9"
    assert "changed" not in first["metadata"]["labels"]
    assert container_of(first)["resources"]["requests"]["cpu"] == "1"
    assert second == build_train_job(make_run(), make_spec(), SETTINGS, 1)
