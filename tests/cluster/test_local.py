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

from tests.cluster.conftest import Cluster, bring_up, run_local
from tests.waiting import wait_until

BUCKET = "runyard"


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    """An instance that these tests may break; one node, no operator."""
    with bring_up("--nodes", "1", "--gpus-per-node", "1", "--no-operator") as instance:
        yield instance


def read_pids(cluster: Cluster) -> dict[str, int | None]:
    parts = json.loads(cluster.local("status", "-o", "json", check=False).stdout)
    return {part["name"]: part["pid"] for part in parts if part["name"] != "operator"}


def processes_naming(state: Path) -> list[str]:
    """Command lines of live processes that mention an instance's directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and str(state) in (line := " ".join(process.cmdline())):
                found.append(line)
        except psutil.NoSuchProcess:
            continue
    return found


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


def test_the_api_server_refuses_who_has_no_token(own: Cluster) -> None:
    argv = [str(own.instance.kubectl), f"--server={own.instance.apiserver_url}", "--insecure-skip-tls-verify=true"]
    done = subprocess.run(
        [*argv, "--token=guess", "get", "pods"],
        env={"PATH": os.environ["PATH"], "KUBECONFIG": "/dev/null"},
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


@pytest.mark.parametrize("name", ["etcd", "kube-apiserver", "kube-scheduler", "versitygw", "node-0"])
def test_a_killed_part_comes_back_with_its_data_and_the_others_stay(own: Cluster, name: str) -> None:
    own.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"before-{name}"}})
    own.s3().put_object(Bucket=BUCKET, Key=f"before-{name}", Body=b"kept")
    before = read_pids(own)
    pid = before[name]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: read_pids(own)[name] is None, 10)
    own.local("up", "--no-operator")
    after = read_pids(own)
    assert after[name] not in (None, pid)
    assert {part: pid for part, pid in after.items() if part != name} == {
        part: pid for part, pid in before.items() if part != name
    }
    own.get_json("configmap", f"before-{name}")
    assert own.s3().get_object(Bucket=BUCKET, Key=f"before-{name}")["Body"].read() == b"kept"


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
    assert processes_naming(own.state)
    own.local("down")
    assert processes_naming(own.state) == []
    assert own.local("status", check=False).returncode == 1
    own.local("up", "--no-operator")
    own.get_json("configmap", "from-before")


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
