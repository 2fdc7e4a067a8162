"""Bring an instance up and take it down.

`bring_up` is level-based: it looks at what runs, stops what is out of date and starts what is missing, so one call
makes an instance, repairs a crashed one and leaves a healthy one alone.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from runyard_trainer.contract.exits import UserError

from runyard_local.chart import SECRET, find_chart, install_operator
from runyard_local.console import show_step
from runyard_local.instance import Instance, Ports, is_port_free, lock_state
from runyard_local.kubectl import Kubectl
from runyard_local.node.folders import NodeDir
from runyard_local.process import Command, read_last_lines
from runyard_local.programs.binaries import Binaries, find_or_build
from runyard_local.requirements import check_requirements
from runyard_local.servers import controlplane, s3server
from runyard_local.servers.certs import make_certs
from runyard_local.waiting import wait_until

_READY_DEADLINE_S = 90.0
_SERVER_GRACE_S = 5.0
_NODE_GRACE_S = 20.0


@dataclass(frozen=True)
class UpOptions:
    """The options of `up`; None: as before, or the default."""

    nodes: int | None = None
    gpus_per_node: int | None = None
    operator: bool = True


def bring_up(state: Path, wanted: UpOptions) -> bool:
    """Bring the instance in `state` up, and wait until it can be used.

    Returns:
        Whether anything had to be started.

    Raises:
        UserError: the machine cannot run it, or a part of it did not start.
    """
    check_requirements()
    if wanted.operator:
        find_chart()
    binaries = find_or_build()
    with lock_state(state):
        instance = _prepare(state, wanted)
        _link_clients(instance, binaries)
        kubectl = Kubectl(instance.kubectl, instance.kubeconfig)
        started = _run_servers(instance, binaries, kubectl)
        started |= _run_nodes(instance, kubectl)
        _apply_secret(instance, kubectl)
        if wanted.operator:
            with show_step("Operator"):
                install_operator(instance, kubectl)
    return started


def take_down(state: Path, *, delete: bool) -> None:
    """Stop every process of the instance, and with `delete` remove its directory."""
    if not state.exists():
        return
    with lock_state(state):
        _stop_all(Instance(state, Ports(0, 0, 0, 0), 0, 0))
        if delete:
            _delete(state)


def _delete(state: Path) -> None:
    try:
        shutil.rmtree(state)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be removed: {error.strerror}; remove {state} yourself") from error


# ------------------------------------------------------------------------------------------------------------- servers


def _prepare(state: Path, wanted: UpOptions) -> Instance:
    instance = Instance.load(state) or Instance(state, Ports.choose(), nodes=2, gpus_per_node=2)
    instance = replace(
        instance,
        nodes=instance.nodes if wanted.nodes is None else wanted.nodes,
        gpus_per_node=instance.gpus_per_node if wanted.gpus_per_node is None else wanted.gpus_per_node,
    )
    if not _ports_are_ours(instance):
        _stop_all(instance)
        instance = replace(instance, ports=Ports.choose())
    instance.save()
    make_certs(instance.certs)
    controlplane.write_credentials(instance)
    return instance


def _link_clients(instance: Instance, binaries: Binaries) -> None:
    """Link kubectl and helm into `bin/`, for a person's PATH; the servers do not belong there."""
    for link, binary in ((instance.kubectl, binaries.kubectl), (instance.helm, binaries.helm)):
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(binary)


def _ports_are_ours(instance: Instance) -> bool:
    ports = instance.ports
    owners = {"kube-apiserver": [ports.apiserver], "etcd": [ports.etcd, ports.etcd_peer], "versitygw": [ports.s3]}
    stopped = [port for name, owned in owners.items() if instance.processes.find(name) is None for port in owned]
    return all(is_port_free(port) for port in stopped)


def _run_servers(instance: Instance, binaries: Binaries, kubectl: Kubectl) -> bool:
    started = False
    stages: tuple[tuple[str, list[Command], Callable[[], bool]], ...] = (
        (
            "Storage and API server",
            [
                controlplane.build_etcd(instance, binaries.etcd),
                controlplane.build_apiserver(instance, binaries.apiserver),
                s3server.build_s3_server(instance, binaries.versitygw),
            ],
            lambda: controlplane.is_apiserver_ready(instance) and s3server.is_s3_ready(instance),
        ),
        (
            "Controllers and scheduler",
            [
                controlplane.build_scheduler(instance, binaries.scheduler),
                controlplane.build_controller_manager(instance, binaries.controller_manager),
            ],
            # Pods cannot be created without it, and it shows that controllers are at work.
            lambda: kubectl.get("serviceaccount", "default") is not None,
        ),
    )
    for title, commands, is_ready in stages:
        started |= _run(instance, title, commands, is_ready)
    return started


def _run(instance: Instance, title: str, commands: list[Command], is_ready: Callable[[], bool]) -> bool:
    """Start the commands that do not run or are out of date, and wait until all are ready; False if none had to be."""
    stale = [command for command in commands if not instance.processes.is_current(command)]
    if not stale and is_ready():
        return False
    with show_step(title):
        for command in stale:
            is_node = command.name.startswith("node-")
            instance.processes.stop(command.name, grace_s=_NODE_GRACE_S if is_node else _SERVER_GRACE_S)
            instance.processes.start(command)
        _wait_until_ready(instance, commands, is_ready)
    return True


def _wait_until_ready(instance: Instance, commands: list[Command], is_ready: Callable[[], bool]) -> None:
    settled = wait_until(lambda: _find_dead(instance, commands) is not None or is_ready(), _READY_DEADLINE_S)
    dead = _find_dead(instance, commands)
    if settled and dead is None:
        return
    culprit = dead or commands[-1].name
    log = instance.processes.log_path(culprit)
    what = "ended" if dead else f"is not ready after {_READY_DEADLINE_S:.0f} s"
    raise UserError("\n".join([f"{culprit} {what}; the end of {log}:", *read_last_lines(log, 15)]))


def _find_dead(instance: Instance, commands: list[Command]) -> str | None:
    return next((command.name for command in commands if not instance.processes.find(command.name)), None)


# --------------------------------------------------------------------------------------------------------------- nodes


def _run_nodes(instance: Instance, kubectl: Kubectl) -> bool:
    commands = [_build_node(instance, index) for index in range(instance.nodes)]
    surplus = [name for name in instance.processes.names() if name.startswith("node-")]
    surplus = [name for name in surplus if name not in instance.node_names]
    if surplus:
        _stop_nodes(instance, surplus)
        kubectl.run("delete", "node", *surplus, "--ignore-not-found")
    title = f"Nodes: {instance.nodes}, each with {instance.gpus_per_node} simulated GPUs"
    return _run(instance, title, commands, lambda: are_nodes_ready(instance, kubectl)) or bool(surplus)


def _stop_nodes(instance: Instance, names: list[str]) -> None:
    """Stop agents, and the pods of agents that were killed before they could stop them."""
    instance.processes.stop(*names, grace_s=_NODE_GRACE_S)
    for folder in (instance.state / "nodes").glob("*"):
        if instance.processes.find(folder.name) is None:
            NodeDir(folder).kill_leftovers()


def _build_node(instance: Instance, index: int) -> Command:
    flags = {
        "state": instance.state,
        "name": instance.node_names[index],
        "index": index,
        "gpus": instance.gpus_per_node,
        "kubeconfig": instance.kubeconfig,
    }
    argv = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    return Command(instance.node_names[index], (sys.executable, "-m", "runyard_local.node", *argv))


def are_nodes_ready(instance: Instance, kubectl: Kubectl) -> bool:
    """Return whether every node of the instance is Ready."""
    found = kubectl.get("nodes")
    ready = {node["metadata"]["name"] for node in (found or {"items": []})["items"] if is_node_ready(node)}
    return ready >= set(instance.node_names)


def is_node_ready(node: dict[str, object]) -> bool:
    """Return whether a Node object has the condition Ready=True."""
    status = node.get("status")
    conditions = status.get("conditions", []) if isinstance(status, dict) else []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


# -------------------------------------------------------------------------------------------- the instance as a whole


def _apply_secret(instance: Instance, kubectl: Kubectl) -> None:
    keys = s3server.read_or_make_keys(instance)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": "default"},
        "stringData": {
            "AWS_ACCESS_KEY_ID": keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        },
    }
    kubectl.apply(yaml.safe_dump(secret))


def _stop_all(instance: Instance) -> None:
    """Stop in the order of dependence: nodes with their pods, the API's clients, the API server, etcd."""
    _stop_nodes(instance, [name for name in instance.processes.names() if name.startswith("node-")])
    for stage in (("kube-scheduler", "kube-controller-manager", "versitygw"), ("kube-apiserver",), ("etcd",)):
        instance.processes.stop(*stage, grace_s=_SERVER_GRACE_S)
