"""Who may make runs, once the chart is installed: the API server's own answers about users of two namespaces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from runyard.decide.values import Manifest

from tests.cluster.chart import apply, render
from tests.cluster.local_cluster import Cluster as ControlPlane
from tests.waiting import wait_until

SERVED, OTHER = "users-served", "users-other"
USERS = {"dana": "edit", "ada": "admin", "vic": "view"}


def build_role_binding(namespace: str, user: str, role: str) -> Manifest:
    api_group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{api_group}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": user, "namespace": namespace},
        "roleRef": {"apiGroup": api_group, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user, "apiGroup": api_group}],
    }


def user_roles(manifests: list[Manifest]) -> list[Manifest]:
    """Return the ClusterRoles that are added to those of Kubernetes."""
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    return [each for each in manifests if any(label.startswith(prefix) for label in each["metadata"].get("labels", ()))]


def may(control_plane: ControlPlane, user: str, verb: str, resource: str, *flags: str) -> bool:
    done = control_plane.kubectl("auth", "can-i", verb, resource, f"--as={user}", "-n", SERVED, *flags, check=False)
    assert done.stdout.strip() in ("yes", "no"), done.stderr
    return done.stdout.strip() == "yes"


@pytest.fixture(scope="module")
def installed(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """Install a release for chosen namespaces, and users who hold Kubernetes' own roles in one of them."""
    for namespace in (SERVED, OTHER):
        control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    for user, role in USERS.items():
        control_plane.apply(build_role_binding(SERVED, user, role))
    wait_until(lambda: not may(control_plane, "dana", "get", "trainingruns.runyard.dev"), 30)  # of another test's roles
    roles = user_roles(render(control_plane, f"watchNamespaces={{{SERVED}}}"))
    apply(control_plane, roles)
    wait_until(lambda: may(control_plane, "ada", "create", "trainingruns.runyard.dev"), 30)
    wait_until(lambda: may(control_plane, "vic", "get", "trainingruns.runyard.dev"), 30)
    yield control_plane
    control_plane.kubectl("delete", "clusterrole", *(role["metadata"]["name"] for role in roles))
    control_plane.kubectl("delete", "namespace", SERVED, OTHER, "--wait=false")


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("verb", ["get", "list", "watch"])
def test_whoever_may_view_edit_or_administer_a_namespace_reads_its_runs(
    installed: ControlPlane, user: str, verb: str
) -> None:
    assert may(installed, user, verb, "trainingruns.runyard.dev")
    assert may(installed, user, verb, "trainingruns.runyard.dev", "--subresource=status")


@pytest.mark.parametrize("verb", ["create", "update", "patch", "delete"])
def test_editors_and_admins_make_and_change_runs_and_viewers_do_not(installed: ControlPlane, verb: str) -> None:
    allowed = {user: may(installed, user, verb, "trainingruns.runyard.dev") for user in USERS}
    assert allowed == {"dana": True, "ada": True, "vic": False}


@pytest.mark.parametrize("user", USERS)
def test_nobody_of_a_namespace_writes_the_status_which_the_operator_believes(
    installed: ControlPlane, user: str
) -> None:
    for verb in ("update", "patch"):
        assert not may(installed, user, verb, "trainingruns.runyard.dev", "--subresource=status")


@pytest.mark.parametrize("user", USERS)
def test_budgets_are_the_cluster_administrators(installed: ControlPlane, user: str) -> None:
    for verb in ("get", "list", "create", "update", "patch", "delete"):
        assert not may(installed, user, verb, "gpubudgets.runyard.dev", "--all-namespaces")


def test_a_role_in_one_namespace_says_nothing_of_another(installed: ControlPlane) -> None:
    asked = ("auth", "can-i", "create", "trainingruns.runyard.dev", "--as=dana", "-n", OTHER)
    assert installed.kubectl(*asked, check=False).stdout.strip() == "no"


def test_an_editor_applies_a_run_and_deletes_it(installed: ControlPlane) -> None:
    run = {
        "apiVersion": "runyard.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "mine", "namespace": SERVED},
        "spec": {
            "model": {"uri": "s3://models/base"},
            "data": {"train": [{"uri": "s3://corpora/text/"}]},
            "output": {"uri": "s3://models/out"},
            "compute": {"nodes": 1},
        },
    }
    said = apply(installed, [run], "--as=dana")
    assert "mine serverside-applied" in said
    installed.kubectl("delete", "trainingrun", "mine", "-n", SERVED, "--as=dana")


def test_an_administrator_may_keep_these_rights_out(control_plane: ControlPlane) -> None:
    assert not user_roles(render(control_plane, "rbac.aggregate=false"))


def test_the_roles_of_two_releases_have_names_of_their_own(control_plane: ControlPlane) -> None:
    names = [
        {role["metadata"]["name"] for role in user_roles(render(control_plane, namespace=namespace))}
        for namespace in ("one", "two")
    ]
    assert len(names[0]) == 2
    assert not names[0] & names[1]
