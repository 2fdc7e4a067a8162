"""The progress of a run, read over HTTP from rank 0 of its newest attempt.

Pulling needs no token, TLS secret or API rights in the training pod. Without an answer within two seconds progress is
unknown: correctness never depends on it. An answer is kept for `interval_s`, which also bounds how often progress is
written to a status: the write is itself an event that has the run reconciled again.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import aiohttp
from pydantic import ValidationError
from runyard_trainer.contract.reports import PROGRESS_PORT, Progress

from runyard.api.trainingrun import Role
from runyard.decide.facts.pods import attempt_of, index_of, role_of
from runyard.decide.values import Key, Manifest

logger = logging.getLogger(__name__)

TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True)
class _Answer:
    pod_uid: str
    read_at_s: float
    progress: Progress | None
    silent_since_s: float | None
    """When this pod first failed to answer after it last did."""


class ProgressReader:
    """A reader that remembers the progress of runs for `interval_s`. `clock` gives seconds."""

    def __init__(self, session: aiohttp.ClientSession, interval_s: float, clock: Callable[[], float]) -> None:
        self._session = session
        self._interval_s = interval_s
        self._clock = clock
        self._answers: dict[Key, _Answer] = {}

    async def read(self, key: Key, pods: Iterable[Manifest]) -> Progress | None:
        """Return the progress of the newest attempt's rank 0, at most `interval_s` old; None where nobody answers."""
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
        """Return for how long the pod that was last asked has not answered; None where it has, or none was asked."""
        answer = self._answers.get(key)
        return None if answer is None or answer.silent_since_s is None else self._clock() - answer.silent_since_s

    def due_in_s(self, key: Key) -> float | None:
        """Return in how many seconds the run is to be asked again; None where no pod of it can answer."""
        answer = self._answers.get(key)
        return None if answer is None else max(0.0, self._interval_s - self._age_s(answer))

    def forget(self, key: Key) -> None:
        """Forget a run that is over or gone."""
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
    """Return the running pod with completion index 0 of the newest attempt, if it has an address."""
    train_pods = [pod for pod in pods if role_of(pod) == Role.TRAIN]
    newest = max(map(attempt_of, train_pods), default=0)
    for pod in train_pods:
        status = pod.get("status", {})
        is_reachable = status.get("phase") == "Running" and status.get("podIP")
        if index_of(pod) == 0 and attempt_of(pod) == newest and is_reachable:
            return pod
    return None


def _url(pod_ip: str) -> str:
    host = f"[{pod_ip}]" if ipaddress.ip_address(pod_ip).version == 6 else pod_ip
    return f"http://{host}:{PROGRESS_PORT}/progress"
