"""The objects of a run as Kubernetes manifests; docs/architecture.md describes them.

They are plain dicts, as the client's models drop fields that they do not know. Each call makes new ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from runyard_trainer.contract.exits import FATAL_EXIT_CODES
from runyard_trainer.contract.models import ModelSource
from runyard_trainer.contract.recipe import RECIPE_PATH, Recipe
from runyard_trainer.contract.reports import PROGRESS_PORT, TERMINATION_LOG_PATH
from runyard_trainer.contract.services import MLFLOW_VARIABLES

from runyard.api.trainingrun import (
    ANNOTATION_ASKED,
    API_VERSION,
    CONTAINER_NAME,
    KIND,
    LABEL_ATTEMPT,
    LABEL_ROLE,
    LABEL_RUN,
    LABEL_RUN_UID,
    Prepare,
    Resources,
    Role,
    TrainingRunSpec,
)
from runyard.decide.values import Manifest, Run, Settings

USER_ID = 10001
"""The user of the trainer's image."""

PREPARE_RETRIES = 3
"""How often prepare's pod may fail in a way that may not come back, before the run fails."""

PREPARE_GRACE_PERIOD_S = 30
UNREACHABLE_TOLERATION_S = 30
"""How long a pod stays bound to a node that does not answer."""

_RECIPE_DIR, _RECIPE_KEY = RECIPE_PATH.rsplit("/", 1)


# ---------------------------------------------------------------------------------------------------------------- names


def name_prepare_job(run: Run) -> str:
    """Return the name of the Job that prepares."""
    return f"{run.name}-prepare"


def name_train_job(run: Run, attempt: int) -> str:
    """Return the name of the Job that is an attempt."""
    return f"{run.name}-a{attempt}"


def name_service(run: Run) -> str:
    """Return the name of the Service by which ranks find each other."""
    return f"{run.name}-ranks"


def name_config_map(run: Run, recipe: Recipe) -> str:
    """Return the name of the ConfigMap with the recipe; another recipe has another name."""
    return f"{run.name}-recipe-{recipe.digest}"


def resolve_recipe(run: Run, spec: TrainingRunSpec, settings: Settings) -> Recipe:
    """Fill in what the recipe leaves to the administrator (storage) and to another run (model)."""
    storage = spec.storage.model_copy(
        update={
            "endpoint": spec.storage.endpoint or settings.storage_endpoint,
            "region": spec.storage.region or settings.storage_region,
            "addressing": spec.storage.addressing or settings.storage_addressing,
            "secret_name": spec.storage.secret_name or settings.storage_secret_name,
        }
    )
    resolved: dict[str, Any] = {"storage": storage}
    if (source := run.status.source) is not None:
        resolved["model"] = ModelSource(
            uri=source.uri,
            digest=source.digest,
            step=source.step,
            extend_vocabulary=spec.model.extend_vocabulary,
        )
    return spec.to_recipe().model_copy(update=resolved)


# -------------------------------------------------------------------------------------------------------------- objects


def build_config_map(run: Run, recipe: Recipe) -> Manifest:
    """Build the immutable ConfigMap with the recipe."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _build_metadata(run, name_config_map(run, recipe), _build_labels(run)),
        "immutable": True,
        "data": {_RECIPE_KEY: recipe.to_json()},
    }


def build_service(run: Run) -> Manifest:
    """Build the Service that gives each training pod a DNS name, even before it is ready."""
    labels = _build_labels(run, Role.TRAIN)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _build_metadata(run, name_service(run), labels),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {LABEL_RUN_UID: run.uid, LABEL_ROLE: Role.TRAIN.value},
            "ports": [{"name": "progress", "port": PROGRESS_PORT, "targetPort": "progress", "protocol": "TCP"}],
        },
    }


def build_prepare_job(run: Run, spec: TrainingRunSpec, settings: Settings) -> Manifest:
    """Build the Job that makes tokens of the text, on CPUs, with resources of its own: it must fit a CPU node.

    A fatal exit code ends it at once; a pod that was evicted does not count; everything else is tried again.
    """
    recipe = resolve_recipe(run, spec, settings)
    labels = _build_labels(run, Role.PREPARE)
    pod = _build_pod(
        run,
        spec,
        settings,
        command=["python", "-m", "runyard_trainer", "prepare"],
        env=[*_build_run_env(run), *_build_service_env(recipe)],
        amounts=_fill(spec.prepare.resources, settings.prepare_cpu, settings.prepare_memory),
        recipe=recipe,
    )
    pod["terminationGracePeriodSeconds"] = PREPARE_GRACE_PERIOD_S
    body = _build_job_body(labels, pod, num_pods=1, num_retries=PREPARE_RETRIES)
    body["podFailurePolicy"] = {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {
                "action": "FailJob",
                "onExitCodes": {"containerName": CONTAINER_NAME, "operator": "In", "values": sorted(FATAL_EXIT_CODES)},
            },
        ]
    }
    job = _build_job(run, name_prepare_job(run), labels, body)
    job["metadata"]["annotations"] = {ANNOTATION_ASKED: format_prepare(spec.prepare)}
    return job


def format_prepare(prepare: Prepare) -> str:
    """Format `spec.prepare` for the prepare Job's annotation. What its pods ask for a policy may have changed."""
    return prepare.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=True)


def build_train_job(
    run: Run, spec: TrainingRunSpec, settings: Settings, attempt: int, avoided_nodes: Sequence[str] = ()
) -> Manifest:
    """Build the Job that is attempt number `attempt`: one pod for each node, none of which is ever replaced."""
    recipe = resolve_recipe(run, spec, settings)
    labels = _build_labels(run, Role.TRAIN) | {LABEL_ATTEMPT: str(attempt)}
    amounts = _fill(spec.compute.resources, settings.default_cpu, settings.default_memory)
    pod = _build_pod(
        run,
        spec,
        settings,
        command=["python", "-m", "runyard_trainer.launch"],
        env=[
            *_build_run_env(run),
            *_build_attempt_env(run, spec, attempt, amounts["cpu"]),
            *_build_service_env(recipe),
        ],
        amounts=amounts,
        recipe=recipe,
    )
    pod["subdomain"] = name_service(run)
    if spec.queue.priority_class_name is not None:
        pod["priorityClassName"] = spec.queue.priority_class_name
    if avoided_nodes:
        pod["affinity"] = {"nodeAffinity": _build_avoidance(avoided_nodes)}
    pod["terminationGracePeriodSeconds"] = spec.recovery.termination_grace_period_seconds
    container = pod["containers"][0]
    container["ports"] = [{"name": "progress", "containerPort": PROGRESS_PORT, "protocol": "TCP"}]
    pod["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": spec.compute.shared_memory}})
    container["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - a mount point
    if spec.compute.gpus_per_node:
        pod["tolerations"].append(_build_gpu_toleration(spec.compute.gpu_resource_name))
        for amounts in container["resources"].values():
            amounts[spec.compute.gpu_resource_name] = str(spec.compute.gpus_per_node)
    body = _build_job_body(labels, pod, num_pods=spec.compute.nodes, num_retries=0)
    return _build_job(run, name_train_job(run, attempt), labels, body)


def _build_avoidance(nodes: Sequence[str]) -> Manifest:
    """Prefer every other node, without requiring one: where there is none, trying again beats waiting."""
    names = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    return {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": {"matchFields": names}}]}


def _build_gpu_toleration(resource: str) -> Manifest:
    """Tolerate the taint that is named as the GPU resource and keeps a node for pods that ask for GPUs.

    GKE's ExtendedResourceToleration does so for NoSchedule. This one is for every effect: some clusters taint with
    NoExecute, and a pod that did not tolerate it would be Unschedulable all the same.
    """
    return {"key": resource, "operator": "Exists"}


def choose_master_port(run_uid: str, attempt: int) -> int:
    """Choose a port in 20000-29999: pods on one host network, and local nodes, must not collide."""
    return 20000 + int.from_bytes(hashlib.sha256(f"{run_uid}/{attempt}".encode()).digest()[:8]) % 10000


# ---------------------------------------------------------------------------------------------------------------- parts


def _build_labels(run: Run, role: Role | None = None) -> dict[str, str]:
    labels = {LABEL_RUN_UID: run.uid, LABEL_RUN: run.name}
    return labels | ({LABEL_ROLE: role.value} if role else {})


def _build_metadata(run: Run, name: str, labels: dict[str, str]) -> Manifest:
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": run.name,
        "uid": run.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {"name": name, "namespace": run.namespace, "labels": labels, "ownerReferences": [owner]}


def _build_job(run: Run, name: str, labels: dict[str, str], body: dict[str, Any]) -> Manifest:
    metadata = _build_metadata(run, name, labels)
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": body}


def _build_job_body(labels: dict[str, str], pod: dict[str, Any], *, num_pods: int, num_retries: int) -> dict[str, Any]:
    return {
        "completionMode": "Indexed",
        "completions": num_pods,
        "parallelism": num_pods,
        "backoffLimit": num_retries,
        "podReplacementPolicy": "Failed",
        "template": {"metadata": {"labels": dict(labels)}, "spec": pod},
    }


def _build_pod(
    run: Run,
    spec: TrainingRunSpec,
    settings: Settings,
    *,
    command: list[str],
    env: list[dict[str, Any]],
    amounts: dict[str, str],
    recipe: Recipe,
) -> dict[str, Any]:
    """Build a pod that meets the restricted Pod Security Standard."""
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [
            {
                "key": f"node.kubernetes.io/{trouble}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": UNREACHABLE_TOLERATION_S,
            }
            for trouble in ("not-ready", "unreachable")
        ],
        "containers": [_build_container(spec, settings, command, env, amounts)],
        "volumes": [
            {"name": "recipe", "configMap": {"name": name_config_map(run, recipe)}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def _build_container(
    spec: TrainingRunSpec, settings: Settings, command: list[str], env: list[dict[str, Any]], amounts: dict[str, str]
) -> dict[str, Any]:
    return {
        "name": CONTAINER_NAME,
        "image": spec.compute.image or settings.trainer_image,
        "command": command,
        "env": env,
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": TERMINATION_LOG_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "recipe", "mountPath": _RECIPE_DIR, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a mount point, not a temporary file
        ],
    }


def _build_run_env(run: Run) -> list[dict[str, Any]]:
    return _build_env(
        {
            "RUNYARD_RUN_UID": run.uid,
            "RUNYARD_RUN_NAME": run.name,
            "RUNYARD_NAMESPACE": run.namespace,
            "HOME": "/tmp",  # noqa: S108 - the pod's emptyDir
            "USER": "runyard",  # the uid need not have a name, and torch has caches that are called by it
            "HF_HUB_OFFLINE": "1",
        }
    )


def _build_attempt_env(run: Run, spec: TrainingRunSpec, attempt: int, cpu: str) -> list[dict[str, Any]]:
    values = {
        "RUNYARD_ATTEMPT": str(attempt),
        "RUNYARD_NODES": str(spec.compute.nodes),
        "RUNYARD_PROCESSES_PER_NODE": str(spec.compute.processes),
        "RUNYARD_GPUS_PER_NODE": str(spec.compute.gpus_per_node),
        "RUNYARD_GPU_RESOURCE_NAME": spec.compute.gpu_resource_name,
        "RUNYARD_GRACE_SECONDS": str(spec.recovery.termination_grace_period_seconds),
        "RUNYARD_STALL_SECONDS": str(spec.recovery.stall_timeout_seconds),
        "RUNYARD_ON_STALL": spec.recovery.on_stall,
        "MASTER_ADDR": f"{name_train_job(run, attempt)}-0.{name_service(run)}",
        "MASTER_PORT": str(choose_master_port(run.uid, attempt)),
        "OMP_NUM_THREADS": str(max(1, int(_parse_cpus(cpu) / spec.compute.processes))),
    }
    pod_ip = {"name": "RUNYARD_POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    return [*_build_env(values), pod_ip]


def _build_service_env(recipe: Recipe) -> list[dict[str, Any]]:
    """Build the credentials for S3, the judge and MLflow, from the Secrets that the run names."""
    judge, mlflow = recipe.evaluation.judge, recipe.tracking.mlflow
    env = _build_secret_env(recipe.storage.secret_name, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
    env += _build_secret_env(recipe.storage.secret_name, ["AWS_SESSION_TOKEN"], is_optional=True)
    if judge is not None and judge.secret_name is not None:
        env += _build_secret_env(judge.secret_name, ["JUDGE_API_KEY"])
    if mlflow is not None and mlflow.secret_name is not None:
        # a token, or a name and a password: prepare says what is missing
        env += _build_secret_env(mlflow.secret_name, MLFLOW_VARIABLES, is_optional=True)
    return env


def _build_secret_env(secret: str | None, keys: Sequence[str], is_optional: bool = False) -> list[dict[str, Any]]:
    optional = {"optional": True} if is_optional else {}
    return [{"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, **optional}}} for key in keys]


def _build_env(values: dict[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _fill(asked: Resources, cpu: str, memory: str) -> dict[str, str]:
    """Return the CPU and memory that a run asks for, else the administrator's."""
    return {"cpu": asked.cpu or cpu, "memory": asked.memory or memory}


def _parse_cpus(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)
