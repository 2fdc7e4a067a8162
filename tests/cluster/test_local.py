"""`runyard local`: up, down and what happens to an instance that was broken on purpose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from botocore.exceptions import ClientError

from tests.cluster.local_cluster import Cluster, bring_up, run_local
from tests.waiting import wait_until

BUCKET = "runyard"


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    """Bring up an instance that these tests may break; one node, no operator."""
    with bring_up("--nodes", "1", "--gpus-per-node", "1", "--no-operator") as instance:
        yield instance


def read_pids(cluster: Cluster) -> dict[str, int | None]:
    """Read the process id of every part that was started; None: it does not run."""
    found = {name: cluster.instance.processes.find(name) for name in cluster.instance.processes.names()}
    return {name: identity.pid if identity else None for name, identity in found.items()}


def processes_naming(text: object) -> list[str]:
    """Find command lines of live processes that mention a text, for example an instance's directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and str(text) in (line := " ".join(process.cmdline())):
                found.append(line)
        except psutil.NoSuchProcess:
            continue
    return found


def run_sleeping_pod(cluster: Cluster, name: str) -> str:
    """Run a pod that sleeps, and return what names its process."""
    marker = f"{86400 + int.from_bytes(os.urandom(4), 'big')}"
    container = {"name": "main", "image": "none", "command": ["sleep", marker]}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 1}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    wait_until(lambda: f"sleep {marker}" in processes_naming(marker), 30)
    return marker


def kill_parts(cluster: Cluster, *names: str) -> None:
    """SIGKILL parts of the instance, and wait until they are gone."""
    for name in names:
        identity = cluster.instance.processes.find(name)
        assert identity is not None, name
        identity.send(signal.SIGKILL)
    wait_until(lambda: all(read_pids(cluster)[name] is None for name in names), 10)


def test_a_second_up_leaves_every_process_alone(own: Cluster) -> None:
    before = read_pids(own)
    again = own.local("up", "--no-operator")
    assert "Already up" in again.stdout
    assert read_pids(own) == before
    assert None not in before.values()


def test_kubectl_applies_gets_and_deletes(own: Cluster) -> None:
    own.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "greeting"}, "data": {"word": "hello"}})
    assert own.get_json("configmap", "greeting")["data"] == {"word": "hello"}
    own.kubectl("delete", "configmap", "greeting", "--wait=true")
    assert "NotFound" in own.kubectl("get", "configmap", "greeting", check=False).stderr


def test_the_api_server_refuses_who_has_no_token(own: Cluster, tmp_path: Path) -> None:
    argv = [str(own.instance.kubectl), f"--server={own.instance.apiserver_url}", "--insecure-skip-tls-verify=true"]
    done = subprocess.run(
        [*argv, "--token=guess", "get", "pods"],
        env={"HOME": str(tmp_path), "KUBECONFIG": "/dev/null"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Unauthorized" in done.stderr or "logged in" in done.stderr


def test_secrets_are_in_files_of_the_owner_alone_and_in_no_command_line(own: Cluster) -> None:
    keys = json.loads(own.instance.s3_keys.read_text())
    token = (own.state / "tokens.csv").read_text().split(",")[0]
    command_lines = " ".join(processes_naming(own.state))
    assert not any(secret in command_lines for secret in (*keys.values(), token))
    private = [own.kubeconfig, own.instance.s3_keys, own.state / "tokens.csv", *own.instance.certs.glob("*.key")]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}


def test_s3_lets_one_of_two_writers_win(own: Cluster) -> None:
    s3 = own.s3()
    etag = s3.put_object(Bucket=BUCKET, Key="head", Body=b"1", IfNoneMatch="*")["ETag"]
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=BUCKET, Key="head", Body=b"2", IfNoneMatch="*")
    s3.put_object(Bucket=BUCKET, Key="head", Body=b"3", IfMatch=etag)
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=BUCKET, Key="head", Body=b"4", IfMatch=etag)
    assert s3.get_object(Bucket=BUCKET, Key="head")["Body"].read() == b"3"


@pytest.mark.parametrize("victims", [("etcd",), ("kube-apiserver", "node-0"), ("kube-scheduler", "versitygw")])
def test_killed_parts_come_back_with_their_data_and_the_others_stay(own: Cluster, victims: tuple[str, ...]) -> None:
    name = f"before-{victims[0]}"
    own.kubectl("create", "configmap", name)
    own.s3().put_object(Bucket=BUCKET, Key=name, Body=b"kept")
    before = read_pids(own)
    kill_parts(own, *victims)
    own.local("up", "--no-operator")
    after = read_pids(own)
    assert {part for part in before if before[part] != after[part]} == set(victims)
    assert None not in after.values()
    own.get_json("configmap", name)
    assert own.s3().get_object(Bucket=BUCKET, Key=name)["Body"].read() == b"kept"


def test_two_instances_run_side_by_side(own: Cluster) -> None:
    with bring_up("--nodes", "1", "--no-operator") as other:
        other.kubectl("create", "configmap", "only-here")
        assert "NotFound" in own.kubectl("get", "configmap", "only-here", check=False).stderr
        assert own.local("status").returncode == other.local("status").returncode == 0
    assert own.local("status").returncode == 0


def test_env_gives_a_shell_what_it_needs(own: Cluster) -> None:
    script = f"""
        eval "$('{sys.executable}' -m runyard local env --dir '{own.state}')"
        kubectl get nodes -o name; echo "$AWS_ENDPOINT_URL_S3 $AWS_REGION"
    """
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["node/node-0", own.instance.s3_endpoint, "us-east-1"]


def test_down_leaves_no_process_and_the_next_up_has_the_data(own: Cluster) -> None:
    own.kubectl("create", "configmap", "from-before")
    pod_process = run_sleeping_pod(own, "stopped-by-its-node")
    own.local("down")
    assert processes_naming(own.state) == processes_naming(pod_process) == []
    assert own.local("status", check=False).returncode == 1
    own.local("up", "--no-operator")
    own.get_json("configmap", "from-before")


def test_down_stops_the_pods_of_a_node_agent_that_was_killed(own: Cluster) -> None:
    pod_process = run_sleeping_pod(own, "orphan")
    kill_parts(own, "node-0")
    assert processes_naming(pod_process)
    own.local("down")
    assert processes_naming(own.state) == processes_naming(pod_process) == []
    own.local("up", "--no-operator")


def test_an_instance_of_which_everything_was_killed_comes_up_again(own: Cluster) -> None:
    kill_parts(own, *read_pids(own))
    own.local("up", "--no-operator")
    assert None not in read_pids(own).values()
    assert own.local("status").returncode == 0


def test_up_says_which_part_did_not_start_and_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "etcd"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'the disk is on fire' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("RUNYARD_BIN", str(broken.parent))
    state = tmp_path / "instance"
    done = run_local("up", "--nodes", "0", "--no-operator", "--dir", str(state), check=False)
    assert done.returncode == 1
    assert "etcd ended" in done.stderr
    assert "the disk is on fire" in done.stderr
    assert "Traceback" not in done.stderr
    run_local("down", "--delete", "--dir", str(state))
    assert processes_naming(state) == []


def test_down_with_delete_leaves_nothing(tmp_path: Path) -> None:
    state = tmp_path / "instance"
    run_local("up", "--nodes", "0", "--no-operator", "--dir", str(state))
    run_local("down", "--delete", "--dir", str(state))
    assert not state.exists()
    assert processes_naming(state) == []


def test_a_directory_with_other_files_is_neither_used_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for command in (["up"], ["down", "--delete"]):
        done = run_local(*command, "--dir", str(tmp_path), check=False)
        assert done.returncode == 1
        assert "thesis.txt" in done.stderr
        assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_status_of_nothing_says_how_to_make_it(tmp_path: Path) -> None:
    done = run_local("status", "--dir", str(tmp_path), check=False)
    assert done.returncode == 1
    assert "runyard local up" in done.stderr
