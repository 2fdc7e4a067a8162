"""Ask the judge about all pairs in a thread, for PATIENCE_S, while rank 0 exports; no error of it fails the run."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runyard_trainer.contract.services import Judge
from runyard_trainer.evaluation.judge.verdicts import (
    Comparison,
    Judged,
    build_messages,
    combine_verdicts,
    parse_verdict,
    sum_up,
)

if TYPE_CHECKING:
    from runyard_trainer.services.chat_completions import JudgeClient

PATIENCE_S = 600.0
"""How long the judge is asked, from the first question on."""

CONCURRENCY = 8
"""Questions at once."""

_MAX_REPLY_CHARACTERS = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnswerPair:
    """A prompt, and its answers before training and after."""

    prompt: str
    before: str
    after: str


class Judging:
    """A thread that has the judge compare pairs."""

    def __init__(
        self, judge: Judge, api_key: str | None, pairs: Sequence[AnswerPair], missing: str | None = None
    ) -> None:
        """Begin to ask the judge.

        Args:
            judge: the judge's endpoint and model.
            api_key: the key of its endpoint.
            pairs: the answers to compare.
            missing: why nothing can be compared; the judge is not asked then.
        """
        self._judge = judge
        self._api_key = api_key
        self._comparisons = [Comparison(prompt=pair.prompt, before=pair.before, after=pair.after) for pair in pairs]
        self._message = missing
        self._thread = threading.Thread(target=self._run, name="judge", daemon=True)
        if missing is None:
            self._thread.start()

    def finish(self) -> Judged:
        """Wait for the last comparison, as long as PATIENCE_S allows, and return all. Raises nothing."""
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S + 30)  # a name that does not resolve can hold the thread past its end
        comparisons = list(self._comparisons)
        judgement = sum_up(comparisons, self._message)
        if judgement.message:
            log.warning("evaluation.judge: %s", judgement.message)
        return Judged(judgement=judgement, comparisons=comparisons)

    def _run(self) -> None:
        try:
            asyncio.run(self._judge_all())
        except Exception as error:  # noqa: BLE001 - the model is trained, whatever a foreign server makes of this
            self._message = f"asking the judge failed: {type(error).__name__}: {error}"

    async def _judge_all(self) -> None:
        # deferred: few runs have a judge
        from runyard_trainer.services.chat_completions import open_client
        from runyard_trainer.services.http import ServiceError

        async def work(client: JudgeClient, places: Iterator[int]) -> None:
            for place in places:
                self._comparisons[place] = await compare(client, self._comparisons[place])

        places = iter(range(len(self._comparisons)))
        try:
            async with (
                asyncio.timeout(PATIENCE_S),
                open_client(self._judge, self._api_key) as client,
                asyncio.TaskGroup() as group,
            ):
                for _ in range(CONCURRENCY):
                    group.create_task(work(client, places))
        except* ServiceError as errors:
            self._message = str(errors.exceptions[0])
        except* TimeoutError:
            self._message = f"the judge had not answered all questions after {PATIENCE_S:.0f} s"


async def compare(client: JudgeClient, pair: Comparison) -> Comparison:
    """Return the comparison with its outcome; equal answers are a tie, without asking."""
    if pair.before.strip() == pair.after.strip():
        return pair.model_copy(update={"outcome": "tie"})
    before_first = await client.ask(build_messages(pair.prompt, pair.before, pair.after)) or ""
    after_first = await client.ask(build_messages(pair.prompt, pair.after, pair.before)) or ""
    outcome = combine_verdicts(parse_verdict(before_first), parse_verdict(after_first))
    replies = [reply[-_MAX_REPLY_CHARACTERS:] for reply in (before_first, after_first)]
    return pair.model_copy(update={"outcome": outcome, "replies": replies})
