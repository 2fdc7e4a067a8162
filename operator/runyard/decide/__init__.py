"""Decide what to do about a run: pure functions, no I/O, no clock, no chance.

    run, what belongs to it, now ─(situation)─> facts ─(rules, in order)─> decision ─(plan)─> actions, status
    manifests: what is created     status: what is written     budgets, quota: what may be held

Nothing here knows how an object is read or written.
"""
