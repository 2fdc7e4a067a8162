"""Measure how long a run stands still after a rank is killed: two pods of one rank each, on a real control plane.

    python benchmarks/recovery.py [--kills 5]

Rank 1 is killed (-9) while the run trains; seconds from there until
    its pod is Failed on the API server      (the node's agent)
    the next attempt's Job exists            (the operator: classify the end, write it down, back off)
    the attempt's rank 0 answers /progress   (Job controller, scheduler, agent; Python and torch imported)
    it has made its first step               (rendezvous, checkpoint read back)
and how many steps the next attempt repeats. Prints a table in Markdown: the median, and each kill.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import psutil
from instances import open_instance
from runyard.api.trainingrun import API_VERSION, LABEL_RUN
from runyard.cluster.client import Kube, connect
from runyard.cluster.progress import find_rank_0
from runyard_local.instance import BUCKET
from runyard_local.servers.s3server import open_client
from runyard_trainer.contract.reports import PROGRESS_PORT

RUN = "recovery"
DEADLINE_S = 120.0
INTERVAL_S = 0.02
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
MANIFEST = {
    "apiVersion": API_VERSION,
    "kind": "TrainingRun",
    "metadata": {"name": RUN},
    "spec": {
        "model": {"scratch": {"config": LLAMA, "tokenizer": {"train": {"vocabSize": 300}}}},
        "data": {"train": [{"uri": f"s3://{BUCKET}/corpora/recovery/"}]},
        "training": {"steps": 100_000, "sequenceLength": 128, "batchSequences": 8},
        "checkpoint": {"everySteps": 10},
        "output": {"uri": f"s3://{BUCKET}/{RUN}"},
        "compute": {"nodes": 2, "gpusPerNode": 1},
    },
}
MOMENTS = ("its pod is Failed", "the next Job is there", "rank 0 answers", "the first step is done", "steps made again")


class Watched:
    """The run as the API server and its rank 0 report it."""

    def __init__(self, kube: Kube, session: aiohttp.ClientSession) -> None:
        self._kube = kube
        self._session = session

    async def has_failed_pod(self, attempt: int) -> bool:
        """Return whether a pod of the attempt has failed."""
        return any(
            pod["status"].get("phase") == "Failed" and pod["metadata"]["labels"]["runyard.dev/attempt"] == str(attempt)
            for pod in await self._list_pods()
        )

    async def has_job(self, attempt: int) -> bool:
        """Return whether the attempt's Job exists."""
        jobs = await self._kube.get("/apis/batch/v1/namespaces/default/jobs")
        return f"{RUN}-a{attempt}" in {job["metadata"]["name"] for job in jobs["items"]}

    async def read_progress(self, attempt: int) -> dict[str, Any] | None:
        """Read the progress from rank 0 of the attempt; None while it does not answer."""
        pod = find_rank_0(await self._list_pods())
        if pod is None:
            return None
        try:
            async with self._session.get(f"http://{pod['status']['podIP']}:{PROGRESS_PORT}/progress") as answer:
                found: dict[str, Any] = await answer.json()
        except aiohttp.ClientError:
            return None
        return found if found["attempt"] == attempt else None

    async def has_step(self, attempt: int, step: int) -> bool:
        """Return whether the attempt has got beyond the step."""
        progress = await self.read_progress(attempt)
        return progress is not None and progress["step"] > step

    async def _list_pods(self) -> list[dict[str, Any]]:
        pods = await self._kube.get("/api/v1/namespaces/default/pods", labelSelector=f"{LABEL_RUN}={RUN}")
        return list(pods["items"])


async def wait_until(holds: Callable[[], Awaitable[object]]) -> float:
    """Poll until it holds; return when that was."""
    async with asyncio.timeout(DEADLINE_S):
        while not await holds():
            await asyncio.sleep(INTERVAL_S)
    return time.monotonic()


def kill_rank_1() -> float:
    """Kill rank 1 with SIGKILL; return when that was."""
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if environment.get("RUNYARD_RUN_NAME") == RUN and environment.get("RANK") == "1":
            process.kill()
            return time.monotonic()
    raise ProcessLookupError("no rank 1 runs")


async def measure_kill(watched: Watched, attempt: int, committed: Callable[[], int]) -> tuple[float, ...]:
    """Kill the rank of a training attempt; return the figures of MOMENTS."""
    before = committed()
    await wait_until(lambda: watched.has_step(attempt, before + 15))  # one checkpoint has been committed since
    progress = await watched.read_progress(attempt)
    assert progress is not None
    killed = kill_rank_1()
    moments = [
        await wait_until(lambda: watched.has_failed_pod(attempt)),
        await wait_until(lambda: watched.has_job(attempt + 1)),
        await wait_until(lambda: watched.read_progress(attempt + 1)),
    ]
    resumed = committed()
    moments.append(await wait_until(lambda: watched.has_step(attempt + 1, resumed)))
    return (*(moment - killed for moment in moments), max(0, progress["step"] - resumed))


async def measure(kills: int, committed: Callable[[], int]) -> list[tuple[float, ...]]:
    """Measure several kills of one run."""
    async with connect() as kube, aiohttp.ClientSession() as session:
        await kube.request("POST", f"/apis/{API_VERSION}/namespaces/default/trainingruns", body=MANIFEST)
        watched = Watched(kube, session)
        return [await measure_kill(watched, attempt, committed) for attempt in range(1, kills + 1)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    arguments = parser.parse_args()
    with open_instance() as instance:
        os.environ["KUBECONFIG"] = str(instance.kubeconfig)
        s3 = open_client(instance)
        text = "\n".join(f"Line {number} says what {number * number} is the square of." for number in range(5000))
        s3.put_object(Bucket=BUCKET, Key="corpora/recovery/text.txt", Body=text.encode())

        def committed() -> int:
            try:
                head = json.loads(s3.get_object(Bucket=BUCKET, Key=f"{RUN}/head.json")["Body"].read())
            except s3.exceptions.NoSuchKey:
                return 0
            return int((head["checkpoint"] or {"step": 0})["step"])

        kills = asyncio.run(measure(arguments.kills, committed))
    print("| from the kill, in seconds | median | each kill |\n|---|---|---|")
    for moment, figures in zip(MOMENTS, zip(*kills, strict=True), strict=True):
        digits = 0 if moment == MOMENTS[-1] else 2
        listed = ", ".join(f"{figure:.{digits}f}" for figure in figures)
        print(f"| {moment} | {statistics.median(figures):.{digits}f} | {listed} |")


if __name__ == "__main__":
    main()
