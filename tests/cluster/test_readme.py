"""The README is true: what it tells a reader to apply is accepted, what it tells a reader to run exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import runs
from tests.cluster.local_cluster import Cluster

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.strip() for line in README.replace(" \\\n", " ").splitlines() if line.startswith("    ")]


def commands(program: str) -> list[str]:
    """The README's commands that call a program, without comments; one that goes on in the next line is one."""
    found = [re.split(r"\s+#", line)[0] for line in COMMANDS if line.startswith(f"{program} ")]
    assert found, f"the README calls no {program}"
    return found


def test_the_run_and_the_budget_of_the_readme_are_accepted_by_the_api_server(control_plane: Cluster) -> None:
    run, budget = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    for manifest in (run, budget):
        control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", input=manifest)


def test_the_examples_are_accepted_by_the_api_server(control_plane: Cluster) -> None:
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(path))


def test_kubectl_explains_every_field(control_plane: Cluster) -> None:
    assert "`kubectl explain trainingrun.spec`" in README.replace("\n", " ")
    explained = control_plane.kubectl("explain", "trainingrun.spec", "--recursive").stdout
    for field in ("sequenceLength", "replay", "maxFailures", "takeOver", "sharedMemory"):
        assert field in explained
    assert "Tokens in a packed sequence" in control_plane.kubectl("explain", "trainingrun.spec.training").stdout


def test_each_kubectl_command_of_the_readme_works_on_a_run_of_that_name(control_plane: Cluster, tmp_path: Path) -> None:
    runs.apply(control_plane, runs.manifest("fin-cpt", "s3://runyard/none/"))
    control_plane.kubectl("create", "namespace", "team-a", check=False)  # another test may have made it
    run = tmp_path / "run.yaml"
    run.write_text(re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0])
    for line in commands("kubectl"):
        if line.startswith(("kubectl rollout status", "kubectl get nodes")):
            continue  # the one has a test of its own, the other needs nodes
        words = [word.strip("'") for word in line.split()[1:] if word != "-w"]
        control_plane.kubectl(*(str(run) if word == "run.yaml" else word for word in words))
    assert not control_plane.get_json("trainingruns")["items"], "a command of the README deletes the run"
    control_plane.kubectl("delete", "trainingrun/fin-cpt", "secret/runyard-s3", "--namespace", "team-a")


def test_the_readme_asks_for_the_health_of_the_operator_that_it_installs(cluster: Cluster) -> None:
    [line] = [line for line in commands("kubectl") if line.startswith("kubectl rollout status")]
    assert "successfully rolled out" in cluster.kubectl(*line.split()[1:]).stdout


@pytest.mark.parametrize("line", commands("make"))
def test_each_make_target_of_the_readme_exists(line: str) -> None:
    done = subprocess.run(["make", "--dry-run", line.split()[1]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", commands("runyard"))
def test_each_command_line_of_the_readme_exists(line: str) -> None:
    argv = [sys.executable, "-m", *line.split(), "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_helm_renders_what_the_readme_installs(control_plane: Cluster) -> None:
    [command] = commands("helm")
    words = command.split()[2:]
    argv = [str(control_plane.instance.helm), "template", *(word for word in words if word != "--create-namespace")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "registry.example/runyard/operator:0.1.0" in done.stdout
    assert "registry.example/runyard/trainer:0.1.0" in done.stdout
    images = {line.split()[-1] for line in commands("docker") if line.startswith("docker push ")}
    assert images == {word.split("=")[-1] for word in words if "image=" in word}, "what is installed has been pushed"
