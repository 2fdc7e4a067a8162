"""How far a run is, asked of rank 0 of its newest attempt over HTTP.

Pull needs no token, TLS secret or API rights in the training pod. What does not answer within two seconds counts as
unknown: correctness never rests on progress. An answer stands for `interval_s`, which also bounds how often progress is
written to a status: the write is itself an event that has the run looked at again.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import aiohttp
from pydantic import ValidationError
from runyard_trainer.contract.reports import PROGRESS_PORT, Progress

from runyard.api.trainingrun import LABEL_ATTEMPT, LABEL_ROLE, Role
from runyard.decide.values import Key, Manifest

logger = logging.getLogger(__name__)

TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 64 * 1024
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True)
class _Answer:
    pod_uid: str
    read_at_s: float
    progress: Progress | None
    silent_since_s: float | None
    """When this pod was first asked in vain after it last answered."""


class ProgressReader:
    """Reads and briefly remembers the progress of runs. `clock` gives seconds."""

    def __init__(self, session: aiohttp.ClientSession, interval_s: float, clock: Callable[[], float]) -> None:
        self._session = session
        self._interval_s = interval_s
        self._clock = clock
        self._answers: dict[Key, _Answer] = {}

    async def read(self, key: Key, pods: Iterable[Manifest]) -> Progress | None:
        """What rank 0 of the newest attempt says, at most `interval_s` old; None where nobody answers."""
        pod = find_rank_0(pods)
        if pod is None:
            self.forget(key)
            return None
        answer = self._answers.get(key)
        if answer is None or answer.pod_uid != pod["metadata"]["uid"] or self._age_s(answer) >= self._interval_s:
            asked_at_s = self._clock()
            progress = await self._ask(pod["status"]["podIP"])
            before = answer if answer is not None and answer.pod_uid == pod["metadata"]["uid"] else None
            silent_since_s = None if progress else (before and before.silent_since_s) or asked_at_s
            answer = _Answer(pod["metadata"]["uid"], asked_at_s, progress, silent_since_s)
            self._answers[key] = answer
        return answer.progress

    def silent_for_s(self, key: Key) -> float | None:
        """For how long the pod that was last asked has not answered; None where it has, or none was asked."""
        answer = self._answers.get(key)
        return None if answer is None or answer.silent_since_s is None else self._clock() - answer.silent_since_s

    def due_in_s(self, key: Key) -> float | None:
        """In how many seconds the run should be asked again; None where no pod of it can answer."""
        answer = self._answers.get(key)
        return None if answer is None else max(0.0, self._interval_s - self._age_s(answer))

    def forget(self, key: Key) -> None:
        """The run is over or gone."""
        self._answers.pop(key, None)

    def _age_s(self, answer: _Answer) -> float:
        return self._clock() - answer.read_at_s

    async def _ask(self, pod_ip: str) -> Progress | None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with self._session.get(_url(pod_ip), timeout=timeout, allow_redirects=False) as response:
                response.raise_for_status()
                return Progress.model_validate_json(await response.content.read(MAX_ANSWER_BYTES))
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError) as error:
            logger.debug("no progress from %s: %s", pod_ip, error)
            return None


def find_rank_0(pods: Iterable[Manifest]) -> Manifest | None:
    """The running pod with completion index 0 of the newest attempt."""
    train_pods = [pod for pod in pods if pod["metadata"]["labels"].get(LABEL_ROLE) == Role.TRAIN]
    newest = max((_attempt(pod) for pod in train_pods), default=0)
    for pod in train_pods:
        is_first = pod["metadata"]["labels"].get(INDEX_LABEL) == "0"
        status = pod.get("status", {})
        if is_first and _attempt(pod) == newest and status.get("phase") == "Running" and status.get("podIP"):
            return pod
    return None


def _attempt(pod: Manifest) -> int:
    return int(pod["metadata"]["labels"].get(LABEL_ATTEMPT, "0"))


def _url(pod_ip: str) -> str:
    host = f"[{pod_ip}]" if ipaddress.ip_address(pod_ip).version == 6 else pod_ip
    return f"http://{host}:{PROGRESS_PORT}/progress"
