"""The plan for a run: what to do about it, and its whole status. Every decision of the operator, and no I/O.

    Waiting (for the run that model.run names) ─> Preparing ─> Queued (for quota) ─> Starting

                 ┌──────────── pods gone or broken ────────────┐
                 v                                             │
    Pending ─> Preparing ─> Starting(a1) ─> Running ─> ended early ─> Recovering ─> Starting(a2) ─> ...
                 │              │              │            │
                 │              └── suspend ───┤            └─ fatal, or a budget is used up ─> Failed
                 └─ fatal ─> Failed            v
                                           Suspending ─> Suspended ── suspend: false ─> the next attempt
    every rank ended with 0 ─> Succeeded

The rules are in `RULES`, in their order; the first that applies decides: first those that only record what has
happened, then those that find something in the way, then those that act. What they promise:

1. Succeeded and Failed are for good.
2. An attempt's end is settled once: `status.endedAttempt` and the counters change in one write. The next attempt's Job
   is made only from a stored status that has settled the one before. So a pass that is repeated, a write that is lost
   or an operator that is killed can neither count twice nor start twice. Job a<n+1> proves that a<n> was settled.
3. Deleting an attempt's Job also waits for that write: what the operator stops is never counted as a failure.
4. A Job that failed by itself is kept for its logs; only one that would go on running is deleted.

Nothing here knows how objects are read or written, what time it is, or what was decided before: the run, the
observation and the time are arguments, and the same arguments give the same plan.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from runyard.decide.facts import gpu_seconds, pods
from runyard.decide.facts.endings import has_failing_pod
from runyard.decide.rules import attempt_end, kueue, lifecycle, preparation, quota, source_run
from runyard.decide.situation import Situation, build_delete
from runyard.decide.status import build_events, build_status
from runyard.decide.values import Action, Decision, Observed, Plan, Run, Settings

Rule = Callable[[Situation], Decision | None]

RULES: tuple[Rule, ...] = (
    lifecycle.is_finished,
    lifecycle.has_invalid_spec,
    lifecycle.has_succeeded,
    kueue.has_lost_place,
    attempt_end.has_ended_early,
    preparation.has_failed_to_prepare,
    lifecycle.is_told_to_suspend,
    lifecycle.lacks_a_name,
    lifecycle.could_not_act,
    lifecycle.is_suspended,
    lifecycle.has_reached_a_limit,
    lifecycle.is_attempting,
    preparation.has_changed_preparation,
    quota.is_preparation_blocked,
    preparation.is_preparing,
    source_run.waits_for_run,
    preparation.should_prepare,
    lifecycle.is_backing_off,
    quota.waits_for_budget,
    kueue.waits_for_place,
    lifecycle.is_stopping,
    quota.waits_for_quota,
    kueue.should_start_in_place,
    lifecycle.should_start_attempt,
)


def plan(run: Run, observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Plan what to do. The caller applies the actions in order, then writes the status if it differs."""
    situation = Situation(run, observed, settings, now)
    decision = decide(situation)
    status = build_status(
        situation.known, decision, is_prepared=situation.is_prepared, generation=run.generation, now=now
    )
    status = gpu_seconds.hold_back(run.status, status, situation.num_held_gpus, settings.progress_interval_s)
    return Plan(
        status=status,
        actions=(*delete_settled_jobs(situation), *decision.actions, *kueue.keep_place(situation)),
        events=build_events(run.status, status),
        requeue_at=decision.requeue_at,
        needs_namespace=decision.needs_namespace,
    )


def decide(situation: Situation) -> Decision:
    """Return the decision of the first rule that applies."""
    return next(decision for rule in RULES if (decision := rule(situation)))


def delete_settled_jobs(situation: Situation) -> tuple[Action, ...]:
    """Delete the Jobs of settled attempts that would go on: suspended, or running with a part of their pods."""
    settled = situation.run.status.ended_attempt
    return tuple(
        build_delete(job)
        for job in situation.train_jobs
        if pods.attempt_of(job) <= settled
        and pods.is_live(job)
        and (kueue.is_suspended(job) or not has_failing_pod(pods.pods_of(job, situation.observed.pods)))
    )
