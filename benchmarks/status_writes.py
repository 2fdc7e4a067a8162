"""Count how often the status of a run is written while it only trains, by its number of GPUs.

    python benchmarks/status_writes.py [--gpus 1 16 64 1024] [--seconds 60]

On a real control plane without nodes: the Job controller makes the pods, this script reports that they run, as kubelets
would, and answers for each rank 0 with one step a second. The operator runs outside of the cluster with the
administrator's rights and the chart's progress interval of 5 s. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from instances import open_instance
from operator_process import RUNS, OperatorProcess, build_run, install_crds, wait_for_seen
from runyard.cluster.client import MERGE_PATCH, Kube, connect
from runyard_local.instance import Instance
from runyard_trainer.contract.reports import PROGRESS_PORT

PODS = "/api/v1/namespaces/default/pods"
GPUS_PER_NODE = 8
DEADLINE_S = 300.0


def name_of(gpus: int) -> str:
    """Return the name of the run with so many GPUs."""
    return f"gpus-{gpus}"


def now() -> str:
    """Format the current time as Kubernetes does."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def create(kube: Kube, gpus: int) -> None:
    """Create a run on so many GPUs."""
    run = build_run(name_of(gpus))
    nodes = max(1, gpus // GPUS_PER_NODE)
    run["spec"]["compute"] = {"nodes": nodes, "gpusPerNode": gpus // nodes}
    await kube.request("POST", RUNS, body=run)


async def patch_pod(kube: Kube, pod: dict[str, Any], phase: str, state: dict[str, Any], **status: Any) -> None:
    """Report a pod's state as its kubelet would."""
    container = {"name": "trainer", "image": "trainer", "imageID": "", "restartCount": 0, "ready": True, "state": state}
    body = {"status": {"phase": phase, "startTime": now(), "containerStatuses": [container], **status}}
    path = f"{PODS}/{pod['metadata']['name']}/status"
    await kube.request("PATCH", path, body=body, content_type=MERGE_PATCH)


async def play_kubelet(kube: Kube, addresses: dict[str, str]) -> None:
    """Let pods that prepare succeed and pods that train run."""
    while True:
        for pod in (await kube.get(PODS, fieldSelector="status.phase=Pending"))["items"]:
            labels = pod["metadata"]["labels"]
            if labels["runyard.dev/role"] == "prepare":
                ended = {"exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now()}
                await patch_pod(kube, pod, "Succeeded", {"terminated": ended})
            else:
                address = addresses[labels["runyard.dev/run"]]
                running = {"running": {"startedAt": now()}}
                await patch_pod(kube, pod, "Running", running, podIP=address, podIPs=[{"ip": address}])
        await asyncio.sleep(0.2)


@asynccontextmanager
async def play_rank_0(address: str) -> AsyncIterator[None]:
    """Serve /progress with one step a second."""
    began = time.monotonic()

    async def answer(_: web.Request) -> web.Response:
        step = int(time.monotonic() - began)
        progress = {"stage": "training", "attempt": 1, "step": step, "totalSteps": 100_000, "lastHeartbeatTime": now()}
        return web.json_response(progress)

    app = web.Application()
    app.add_routes([web.get("/progress", answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, PROGRESS_PORT).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def wait_until_all_train(kube: Kube, names: list[str]) -> None:
    """Wait until the status of each of these runs has a step."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        runs = (await kube.get(RUNS))["items"]
        training = {run["metadata"]["name"] for run in runs if run.get("status", {}).get("progress", {}).get("step")}
        if training >= set(names):
            return
        await asyncio.sleep(0.5)
    raise TimeoutError(f"not all of {names} train after {DEADLINE_S:.0f} s")


async def count_writes(instance: Instance, seconds: float) -> Counter[str]:
    """Count the changes of each run that a watch reports."""
    argv = ["get", "trainingruns", "--watch-only", "-o", "json", "--output-watch-events"]
    watch = await asyncio.create_subprocess_exec(
        instance.kubectl, f"--kubeconfig={instance.kubeconfig}", *argv, stdout=asyncio.subprocess.PIPE, limit=2**22
    )
    assert watch.stdout is not None
    counted: Counter[str] = Counter()
    text, decoder = "", json.JSONDecoder()
    try:
        async with asyncio.timeout(seconds):
            while data := await watch.stdout.read(2**16):
                text += data.decode()
                while text.strip():
                    try:
                        event, end = decoder.raw_decode(text.lstrip())
                    except ValueError:  # an event that has not come whole
                        break
                    text = text.lstrip()[end:]
                    counted[event["object"]["metadata"]["name"]] += 1
    except TimeoutError:
        pass
    finally:
        watch.terminate()
        await watch.wait()
    return counted


async def measure(instance: Instance, gpus: list[int], seconds: float) -> dict[int, int]:
    """Count writes by number of GPUs, with all runs at once."""
    os.environ["KUBECONFIG"] = str(instance.kubeconfig)
    install_crds(instance)
    addresses = {name_of(each): f"127.0.7.{number + 1}" for number, each in enumerate(gpus)}
    operator = OperatorProcess(instance.state / "operator.log")
    async with connect() as kube:
        operator.start()
        kubelet = asyncio.create_task(play_kubelet(kube, addresses))
        try:
            await wait_for_seen(0)
            async with asyncio.TaskGroup() as group:
                for each in gpus:
                    group.create_task(create(kube, each))
            counted = await count_while_serving(instance, kube, addresses, seconds)
        finally:
            kubelet.cancel()
            operator.stop()
    return {each: counted[name_of(each)] for each in gpus}


async def count_while_serving(
    instance: Instance, kube: Kube, addresses: dict[str, str], seconds: float
) -> Counter[str]:
    """Serve the progress of all runs, wait until all train, and count."""
    async with AsyncExitStack() as stack:
        for address in addresses.values():
            await stack.enter_async_context(play_rank_0(address))
        await wait_until_all_train(kube, list(addresses))
        return await count_writes(instance, seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 16, 64, 1024], help="below 8, or a multiple of it")
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    with open_instance("--nodes", "0", "--no-operator") as instance:
        counted = asyncio.run(measure(instance, arguments.gpus, arguments.seconds))
    print("| GPUs of the run | status writes a minute |\n|---|---|")
    for gpus, count in counted.items():
        print(f"| {gpus:,} | {count * 60 / arguments.seconds:.0f} |")


if __name__ == "__main__":
    main()
