"""The local node does with pods what a kubelet does: each test is a promise that Kubernetes makes."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.local_cluster import Cluster
from tests.waiting import wait_until

DEADLINE_S = 30
UNTIL_KILLED = "import signal; signal.pause()"
HOLD_SIGNAL = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])"
"""What a container begins with that waits for the test's signal."""


@pytest.fixture
def name(cluster: Cluster) -> Iterator[str]:
    """Choose a name for the objects of one test, which carry it as the label `test` and are deleted afterwards."""
    chosen = f"node-{uuid.uuid4().hex[:6]}"
    yield chosen
    kinds = "jobs,pods,services,secrets,configmaps"
    cluster.kubectl("delete", kinds, "-l", f"test={chosen}", "--grace-period=1", "--wait=true", "--timeout=30s")


def metadata(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "labels": {"test": name}, **more}


def container(code: str, **more: Any) -> dict[str, Any]:
    return {"name": "main", "image": "any", "command": ["python", "-c", code], **more}


def pod_spec(code: str, volumes: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 2,
        "containers": [container(code, **more)],
        "volumes": volumes or [],
    }


def create_pod(cluster: Cluster, name: str, spec: dict[str, Any], label: str = "") -> None:
    labelled = metadata(name, labels={"test": label or name})
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": labelled, "spec": spec})


def create_job(cluster: Cluster, name: str, spec: dict[str, Any], **job_spec: Any) -> None:
    template = {"metadata": {"labels": {"test": name}}, "spec": spec}
    body = {"backoffLimit": 0, "completionMode": "Indexed", "template": template, **job_spec}
    cluster.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata(name), "spec": body})


def status(cluster: Cluster, name: str) -> dict[str, Any]:
    return dict(cluster.get_json("pod", name)["status"])


def container_state(cluster: Cluster, name: str) -> dict[str, Any]:
    containers = status(cluster, name).get("containerStatuses") or [{}]
    return dict(containers[0].get("state", {}))


def wait_for_phase(cluster: Cluster, name: str, *phases: str) -> dict[str, Any]:
    wait_until(lambda: status(cluster, name)["phase"] in phases, DEADLINE_S)
    return status(cluster, name)


def run_to_end(cluster: Cluster, name: str, spec: dict[str, Any]) -> str:
    """Run a pod that is to succeed, and return its log."""
    create_pod(cluster, name, spec)
    wait_for_phase(cluster, name, "Succeeded", "Failed")
    log = logs(cluster, name)
    assert status(cluster, name)["phase"] == "Succeeded", log
    return log


def wait_for_start(cluster: Cluster, name: str) -> None:
    wait_until(lambda: "running" in container_state(cluster, name), DEADLINE_S)


def logs(cluster: Cluster, *arguments: str) -> str:
    return cluster.kubectl("logs", *arguments).stdout


def pod_names(cluster: Cluster, name: str) -> list[str]:
    items = cluster.get_json("pods", "-l", f"test={name}")["items"]
    return sorted(item["metadata"]["name"] for item in items)


def test_a_job_of_two_pods_completes_on_two_nodes(cluster: Cluster, name: str) -> None:
    spec = pod_spec("print('hello')", resources={"limits": {"nvidia.com/gpu": 2}})
    create_job(cluster, name, spec, completions=2, parallelism=2)
    cluster.kubectl("wait", "--for=condition=Complete", f"job/{name}", f"--timeout={DEADLINE_S}s")
    pods = cluster.get_json("pods", "-l", f"test={name}")["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node-0", "node-1"}
    assert [logs(cluster, pod["metadata"]["name"]) for pod in pods] == ["hello\n", "hello\n"]
    assert all("finalizers" not in pod["metadata"] for pod in pods)


def test_a_job_fails_with_its_pods_exit_code_and_last_words(cluster: Cluster, name: str) -> None:
    create_job(cluster, name, pod_spec("open('/dev/termination-log', 'w').write('why'); raise SystemExit(65)"))
    cluster.kubectl("wait", "--for=condition=Failed", f"job/{name}", f"--timeout={DEADLINE_S}s")
    terminated = container_state(cluster, pod_names(cluster, name)[0])["terminated"]
    assert (terminated["exitCode"], terminated["reason"], terminated["message"]) == (65, "Error", "why")


def test_a_process_that_dies_of_a_signal_exits_with_128_and_its_number(cluster: Cluster, name: str) -> None:
    create_pod(cluster, name, pod_spec(UNTIL_KILLED))
    wait_for_start(cluster, name)
    process_of(cluster, name).kill()
    wait_for_phase(cluster, name, "Failed")
    assert container_state(cluster, name)["terminated"]["exitCode"] == 137


def test_a_command_that_is_not_there_is_a_start_error(cluster: Cluster, name: str) -> None:
    spec = pod_spec("")
    spec["containers"][0]["command"] = ["no-such-program"]
    create_pod(cluster, name, spec)
    wait_for_phase(cluster, name, "Failed")
    terminated = container_state(cluster, name)["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (128, "StartError")
    assert '"no-such-program": executable file not found in $PATH' in terminated["message"]


def test_variables_come_from_secrets_fields_and_each_other(cluster: Cluster, name: str) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata(name), "stringData": {"key": "s3cr3t"}}
    cluster.apply(secret)
    env = [
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": name, "key": "key"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "BOTH", "value": "$(KEY)@$(IP)"},
    ]
    log = run_to_end(cluster, name, pod_spec("import os; print(os.environ['BOTH'])", env=env))
    assert log == f"s3cr3t@{status(cluster, name)['podIP']}\n"


def test_a_pod_learns_that_its_gpus_are_simulated_and_sees_none_of_the_machines(cluster: Cluster, name: str) -> None:
    code = "import os; print([os.environ[name] for name in ('CUDA_VISIBLE_DEVICES', 'RUNYARD_SIMULATED_GPUS')])"
    assert run_to_end(cluster, name, pod_spec(code)) == "['', '1']\n"


def test_a_pod_waits_for_a_secret_and_says_so(cluster: Cluster, name: str) -> None:
    env = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": name, "key": "key"}}}]
    create_pod(cluster, name, pod_spec("import os; print(os.environ['KEY'])", env=env))
    want = {"waiting": {"reason": "CreateContainerConfigError", "message": f'secret "{name}" not found'}}
    wait_until(lambda: container_state(cluster, name) == want, DEADLINE_S)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata(name), "stringData": {"key": "late"}}
    cluster.apply(secret)
    wait_for_phase(cluster, name, "Succeeded")
    assert logs(cluster, name) == "late\n"


def test_a_config_map_is_mounted_read_only(cluster: Cluster, name: str) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(name), "data": {"recipe.json": "{}"}}
    cluster.apply(config)
    code = """
try:
    open("/etc/runyard/recipe.json", "a")
except OSError as error:
    print(open("/etc/runyard/recipe.json").read(), error.strerror)
"""
    volumes = [{"name": "recipe", "configMap": {"name": name}}]
    mounts = [{"name": "recipe", "mountPath": "/etc/runyard"}]
    log = run_to_end(cluster, name, pod_spec(code, volumes, volumeMounts=mounts))
    assert log == "{} Read-only file system\n"


def test_a_restricted_pod_has_no_rights_and_sees_no_keys(cluster: Cluster, name: str) -> None:
    code = f"""
import glob, json, os, pathlib, socket
def write(path):
    try:
        pathlib.Path(path).write_text("x")
        return True
    except OSError:
        return False
status = pathlib.Path("/proc/self/status").read_text()
print(json.dumps(dict(
    user=[os.getuid(), os.getgid()],
    pid=os.getpid(),
    hostname=socket.gethostname(),
    capabilities={{line.split()[1] for line in status.splitlines() if line.startswith("Cap")}} == {{"0" * 16}},
    root=write("/x"), usr=write("/usr/x"), tmp=write("/tmp/x"), shm=write("/dev/shm/x"),
    processes=len(glob.glob("/proc/[0-9]*")),
    keys=glob.glob({str(cluster.state)!r} + "/*"),
)))
"""
    security = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}]
    spec = pod_spec(code, volumes, securityContext=security, volumeMounts=mounts)
    spec["securityContext"] = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10002}
    assert json.loads(run_to_end(cluster, name, spec)) == {
        "user": [10001, 10002],
        "pid": 1,
        "hostname": name,
        "capabilities": True,
        "root": False,
        "usr": False,
        "tmp": True,
        "shm": True,
        "processes": 1,
        "keys": [],
    }


def test_pods_on_two_nodes_find_and_reach_each_other_by_name(cluster: Cluster, name: str) -> None:
    service = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"test": name}}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata(name), "spec": service})
    code = f"""
import os, socket, time
name, end = "{name}-0.{name}", time.monotonic() + 20
if os.environ["JOB_COMPLETION_INDEX"] == "0":
    server = socket.create_server((os.environ["IP"], 7000))
    server.settimeout(20)
    print(server.accept()[0].recv(100).decode())
else:
    while True:
        try:
            connection = socket.create_connection((name, 7000), source_address=(os.environ["IP"], 0))
            break
        except OSError:
            assert time.monotonic() < end, open("/etc/hosts").read()
            time.sleep(0.05)
    connection.sendall(b"hello " + connection.getpeername()[0].encode())
"""
    env = [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    spec = pod_spec(code, env=env, resources={"limits": {"nvidia.com/gpu": 2}})
    create_job(cluster, name, {**spec, "subdomain": name}, completions=2, parallelism=2)
    cluster.kubectl("wait", "--for=condition=Complete", f"job/{name}", f"--timeout={DEADLINE_S}s")
    server = pod_names(cluster, name)[0]
    assert logs(cluster, server) == f"hello {status(cluster, server)['podIP']}\n"


def test_deletion_gives_a_process_time_and_then_kills_it(cluster: Cluster, name: str) -> None:
    code = """
import signal
signal.signal(signal.SIGTERM, lambda *_: print("asked to stop", flush=True))
print("ready", flush=True)
while True:
    signal.pause()
"""
    create_pod(cluster, name, pod_spec(code))
    follower = follow_logs(cluster, name)
    assert follower.stdout is not None
    assert follower.stdout.readline() == "ready\n"
    began = time.monotonic()
    cluster.kubectl("delete", "pod", name, "--grace-period=2", f"--timeout={DEADLINE_S}s")
    assert time.monotonic() - began >= 2, "it was killed before its grace period was over"
    assert follower.communicate(timeout=DEADLINE_S)[0] == "asked to stop\n"
    assert cluster.kubectl("get", "pod", name, check=False).returncode != 0


def test_a_job_sees_how_a_deleted_pod_ended(cluster: Cluster, name: str) -> None:
    code = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
signal.pause()
"""
    rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [75]}}
    create_job(cluster, name, pod_spec(code), podFailurePolicy={"rules": [rule]})
    wait_until(lambda: pod_names(cluster, name), DEADLINE_S)
    pod = pod_names(cluster, name)[0]
    follower = follow_logs(cluster, pod)
    assert follower.stdout is not None
    assert follower.stdout.readline() == "ready\n"
    cluster.kubectl("delete", "pod", pod, f"--timeout={DEADLINE_S}s")
    follower.communicate(timeout=DEADLINE_S)
    cluster.kubectl("wait", "--for=condition=Failed", f"job/{name}", f"--timeout={DEADLINE_S}s")
    conditions = {condition["type"]: condition for condition in cluster.get_json("job", name)["status"]["conditions"]}
    assert "failed with exit code 75" in conditions["Failed"]["message"]


def follow_logs(cluster: Cluster, pod: str) -> subprocess.Popen[str]:
    """Start `kubectl logs -f` of a pod, as soon as it has started."""
    wait_for_start(cluster, pod)
    argv = [str(cluster.instance.kubectl), f"--kubeconfig={cluster.kubeconfig}", "logs", "-f", pod]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def test_logs_are_followed_to_their_end(cluster: Cluster, name: str) -> None:
    code = f"{HOLD_SIGNAL}\nfor i in range(4): print('line', i, flush=True); signal.sigwait([signal.SIGUSR1])"
    create_pod(cluster, name, pod_spec(code))
    follower = follow_logs(cluster, name)
    assert follower.stdout is not None
    for number in range(4):
        assert follower.stdout.readline() == f"line {number}\n"
        process_of(cluster, name).send_signal(signal.SIGUSR1)
    assert follower.communicate(timeout=DEADLINE_S)[0] == ""
    assert logs(cluster, name, "--tail=2").splitlines() == ["line 2", "line 3"]
    assert logs(cluster, name, "--tail=1", "--timestamps").endswith("Z line 3\n")


def test_only_the_api_server_may_read_logs(cluster: Cluster) -> None:
    node = cluster.get_json("node", "node-0")["status"]
    url = (
        f"https://{node['addresses'][0]['address']}:{node['daemonEndpoints']['kubeletEndpoint']['Port']}/containerLogs"
    )
    refused = subprocess.run(["curl", "-sk", "--max-time", "5", url], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert refused.stdout == ""


def test_a_container_that_fails_is_started_again_and_then_backs_off(cluster: Cluster, name: str) -> None:
    spec = pod_spec("print('once'); raise SystemExit(1)") | {"restartPolicy": "OnFailure"}
    create_pod(cluster, name, spec)
    wait_until(
        lambda: container_state(cluster, name).get("waiting", {}).get("reason") == "CrashLoopBackOff", DEADLINE_S
    )
    found = status(cluster, name)
    assert found["phase"] == "Running"
    assert found["containerStatuses"][0]["restartCount"] == 1
    assert found["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 1
    assert logs(cluster, name, "--previous") == "once\n"


def test_a_pod_is_ready_when_its_probe_says_so(cluster: Cluster, name: str) -> None:
    code = """
import http.server, os
http.server.HTTPServer((os.environ["IP"], 7001), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
    env = [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    probe = {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 1}
    ports = [{"name": "web", "containerPort": 7001}]
    create_pod(cluster, name, pod_spec(code, env=env, ports=ports, startupProbe=probe, readinessProbe=probe))
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", f"--timeout={DEADLINE_S}s")


def test_a_pod_reaches_the_api_server_with_its_token(cluster: Cluster, name: str) -> None:
    code = """
import json, os, ssl, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
token = open(folder + "token").read()
url = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
request = urllib.request.Request(
    url + "/apis/authentication.k8s.io/v1/selfsubjectreviews",
    json.dumps(body).encode(),
    {"Authorization": "Bearer " + token, "Content-Type": "application/json"},
)
context = ssl.create_default_context(cafile=folder + "ca.crt")
user = json.load(urllib.request.urlopen(request, context=context))["status"]["userInfo"]
print(user["username"], user["extra"]["authentication.kubernetes.io/pod-name"][0])
"""
    assert run_to_end(cluster, name, pod_spec(code)) == f"system:serviceaccount:default:default {name}\n"


def test_a_container_that_is_not_alive_is_killed_and_started_again(cluster: Cluster, name: str) -> None:
    probe = {"tcpSocket": {"port": 7002}, "periodSeconds": 1, "failureThreshold": 1}
    spec = pod_spec(UNTIL_KILLED, livenessProbe=probe)
    create_pod(cluster, name, spec | {"restartPolicy": "Always", "terminationGracePeriodSeconds": 1})
    wait_until(lambda: status(cluster, name).get("containerStatuses", [{}])[0].get("restartCount"), DEADLINE_S)
    assert status(cluster, name)["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137


def test_init_containers_come_first_and_leave_files_to_the_others(cluster: Cluster, name: str) -> None:
    mounts = [{"name": "shared", "mountPath": "/shared"}]
    spec = pod_spec("print(open('/shared/file').read())", [{"name": "shared", "emptyDir": {}}], volumeMounts=mounts)
    first = container("open('/shared/file', 'w').write('from init')", volumeMounts=mounts)
    assert run_to_end(cluster, name, spec | {"initContainers": [first | {"name": "first"}]}) == "from init\n"


def test_a_pod_that_takes_too_long_fails(cluster: Cluster, name: str) -> None:
    create_pod(cluster, name, pod_spec(UNTIL_KILLED) | {"activeDeadlineSeconds": 1})
    wait_for_phase(cluster, name, "Failed")
    assert status(cluster, name)["reason"] == "DeadlineExceeded"


def test_a_node_works_on_after_the_api_server_was_killed(cluster: Cluster, name: str) -> None:
    create_pod(cluster, name, pod_spec(UNTIL_KILLED))
    wait_for_start(cluster, name)
    server = cluster.instance.processes.find("kube-apiserver")
    assert server is not None
    server.send(9)
    wait_until(lambda: not server.is_running(), DEADLINE_S)
    cluster.local("up", "--no-operator")
    assert "running" in container_state(cluster, name)
    cluster.kubectl("delete", "pod", name, f"--timeout={DEADLINE_S}s")


def test_a_killed_agent_comes_back_and_reports_how_containers_ended(cluster: Cluster, name: str) -> None:
    lost, restarted, ended = name, f"{name}-restarted", f"{name}-ended"
    sleeping = pod_spec(UNTIL_KILLED) | {"nodeName": "node-1"}
    code = f"import sys; {HOLD_SIGNAL}; print('ready', flush=True); signal.sigwait([signal.SIGUSR1]); sys.exit(75)"
    ending = pod_spec(code) | {"nodeName": "node-1"}
    for pod, spec in ((lost, sleeping), (restarted, sleeping | {"restartPolicy": "Always"}), (ended, ending)):
        create_pod(cluster, pod, spec, label=name)
    for pod in (lost, restarted, ended):
        wait_for_start(cluster, pod)
    wait_until(lambda: logs(cluster, ended) == "ready\n", DEADLINE_S)
    process, agent = process_of(cluster, ended), cluster.instance.processes.find("node-1")
    assert agent is not None
    agent.send(9)
    wait_until(lambda: not agent.is_running(), DEADLINE_S)
    process.send_signal(signal.SIGUSR1)
    wait_until((run_dir(cluster, ended) / "exit").exists, DEADLINE_S)
    assert not (run_dir(cluster, lost) / "exit").exists(), "containers live on without an agent"
    cluster.local("up", "--no-operator")
    for pod, want in ((lost, (255, "Unknown")), (ended, (75, "Error"))):
        wait_for_phase(cluster, pod, "Failed")
        terminated = container_state(cluster, pod)["terminated"]
        assert (terminated["exitCode"], terminated["reason"]) == want
    wait_for_start(cluster, restarted)
    assert status(cluster, restarted)["containerStatuses"][0]["restartCount"] == 1


def process_of(cluster: Cluster, pod: str) -> psutil.Process:
    """Find the process of a pod's container."""
    shim = json.loads((run_dir(cluster, pod) / "process.json").read_text())
    (process,) = psutil.Process(shim["pid"]).children()
    return process


def run_dir(cluster: Cluster, pod: str) -> Path:
    """Return where its node keeps the first run of a pod's container."""
    metadata = cluster.get_json("pod", pod)
    folder: Path = cluster.state / "nodes" / metadata["spec"]["nodeName"] / "pods" / metadata["metadata"]["uid"]
    return folder / "containers" / "main" / "0"
