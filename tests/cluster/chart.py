"""The chart, rendered by helm and applied to the tests' control plane."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml
from runyard.decide.values import Manifest

from tests.cluster.local_cluster import Cluster as ControlPlane

CHART = Path(__file__).parents[2] / "charts" / "runyard"
NAMESPACE = "chart-test"


def helm(control_plane: ControlPlane, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [str(control_plane.instance.helm), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def render(control_plane: ControlPlane, *settings: str, namespace: str = NAMESPACE) -> list[Manifest]:
    """Render the chart with these settings, as `--set` takes them."""
    flags = [flag for setting in settings for flag in ("--set", setting)]
    done = helm(control_plane, "template", "runyard", str(CHART), "--namespace", namespace, "--include-crds", *flags)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def apply(control_plane: ControlPlane, manifests: list[Manifest], *flags: str) -> str:
    """Apply the manifests, and return what kubectl says, warnings included."""
    text = yaml.safe_dump_all(manifests)
    done = control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", *flags, input=text)
    return done.stdout + done.stderr
