"""The rule of a run that starts from another one (`model.run`): wait until that has left a model, and keep which.

The model is kept in `status.source`: the recipe follows from it, so it must not change when the other run is deleted,
or made anew under the same name.
"""

from __future__ import annotations

from datetime import timedelta

from runyard_trainer.contract.models import SourceRun
from runyard_trainer.contract.reports import ModelFolder

from runyard.api.reasons import ConditionReason
from runyard.api.trainingrun import ConditionType, Phase
from runyard.decide import status
from runyard.decide.situation import Situation
from runyard.decide.values import Decision, Run

POLL = timedelta(seconds=5)
"""How soon the other run is read again: its events are not this run's."""


def waits_for_run(situation: Situation) -> Decision | None:
    """Wait until the run that `model.run` names has left a model, then keep which one."""
    named = situation.spec.model.run
    if named is None or situation.run.status.source is not None:
        return None
    source = situation.observed.source
    if source is None:
        message = (
            f"model.run.name: there is no TrainingRun {named.name} in namespace {situation.run.namespace}: create it, "
            "and this run goes on by itself"
        )
        return _wait(situation, ConditionReason.RUN_NOT_FOUND, message)
    if status.is_true(source.status, ConditionType.FAILED):
        failed = status.find_condition(source.status, ConditionType.FAILED)
        why = f": {failed.message}" if failed else ""
        message = (
            f"model.run.name: {named.name} has failed and leaves no model{why}. Delete both, mend that one and create "
            "them anew"
        )
        return Decision(Phase.FAILED, ConditionReason.SOURCE_RUN_FAILED, message)
    if source.status.result is None:
        phase = source.status.phase or Phase.PENDING
        return _wait(
            situation,
            ConditionReason.WAITING_FOR_RUN,
            f"waiting for the model of run {named.name}, which is {phase.value}",
        )
    message = f"takes the {named.checkpoint} model of run {named.name}"
    changes = {"source": choose_folder(named, source)}
    return Decision(Phase.WAITING, ConditionReason.SOURCE_READY, message, changes, requeue_at=situation.now)


def choose_folder(named: SourceRun, source: Run) -> ModelFolder:
    """Choose the model to start from: the one that the run exported, or one of its checkpoints."""
    result, newest = source.status.result, source.status.checkpoint
    assert result is not None, "it has succeeded"
    exported = ModelFolder(run=source.name, uid=source.uid, uri=result.uri, digest=result.digest)
    if named.checkpoint == "best" or (named.checkpoint == "last" and newest is None):
        return exported
    step = newest.step if named.checkpoint == "last" and newest else int(named.checkpoint)
    return exported.model_copy(update={"digest": None, "step": step})


def _wait(situation: Situation, reason: ConditionReason, message: str) -> Decision:
    return Decision(Phase.WAITING, reason, message, requeue_at=situation.now + POLL)
