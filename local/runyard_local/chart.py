"""Install the operator as its users do: from the chart, under its ServiceAccount and RBAC."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml
from runyard_trainer.contract.exits import UserError

import runyard_local
from runyard_local.instance import REGION, Instance
from runyard_local.kubectl import Kubectl

NAMESPACE = "runyard-system"
SECRET = "runyard-s3"  # noqa: S105 - the name of a Secret, not one

_SELECTOR = "app.kubernetes.io/name=runyard"
_AVAILABLE_DEADLINE_S = 90


def find_chart() -> Path:
    """Find the chart's folder in the clone that this package is installed from.

    Raises:
        UserError: this package does not come from a clone.
    """
    clone = Path(runyard_local.__file__).resolve().parents[2]
    chart = clone / "charts" / "runyard"
    if not (chart / "Chart.yaml").is_file():
        raise UserError(
            f"the chart is not at {chart}: run from a clone of the repository, installed with "
            "`pip install -e '.[operator,trainer,local]'`, or bring up the control plane alone with --no-operator"
        )
    return chart


def install_operator(instance: Instance, kubectl: Kubectl) -> None:
    """Apply the rendered chart and wait until the operator is ready.

    Raises:
        UserError: the chart does not render, is not accepted, or the operator does not become ready.
    """
    kubectl.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
    kubectl.apply(render_chart(instance))
    try:
        kubectl.run(
            *("rollout", "status", "deployment", "--namespace", NAMESPACE, "--selector", _SELECTOR),
            f"--timeout={_AVAILABLE_DEADLINE_S}s",
        )
    except UserError as error:
        raise UserError(
            f"the operator did not become ready: {error}; look with "
            f"`kubectl --kubeconfig {instance.kubeconfig} --namespace {NAMESPACE} describe pods`"
        ) from error


def is_operator_available(kubectl: Kubectl) -> bool:
    """Return whether the operator's Deployment has a pod that is ready."""
    found = kubectl.get("deployments", "--namespace", NAMESPACE, "--selector", _SELECTOR)
    return any(item.get("status", {}).get("availableReplicas", 0) > 0 for item in (found or {"items": []})["items"])


def render_chart(instance: Instance) -> str:
    """Render the chart's manifests for this instance, CRDs included."""
    values = instance.state / "values.yaml"
    values.write_text(yaml.safe_dump(_build_values(instance)))
    argv = [str(instance.helm), "template", "runyard", str(find_chart()), "--include-crds"]
    done = subprocess.run(
        [*argv, "--namespace", NAMESPACE, "--values", str(values)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise UserError(f"the chart does not render: {done.stderr.strip()}")
    return done.stdout


def _build_values(instance: Instance) -> dict[str, object]:
    return {
        "image": "runyard-operator:local",
        "replicaCount": 1,
        "progressIntervalSeconds": 1,
        "trainer": {"image": "runyard-trainer:local", "cpu": "250m", "memory": "512Mi"},
        "prepare": {"cpu": "250m", "memory": "512Mi"},
        "storage": {
            "endpoint": instance.s3_endpoint,
            "region": REGION,
            "addressing": "path",
            "secretName": SECRET,
        },
    }
