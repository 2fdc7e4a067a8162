"""The decisions about runs: pure functions, no I/O, no clock, no chance.

    run, what belongs to it, now ─(situation)─> facts ─(rules, in order)─> decision ─(plan)─> actions, status
    manifests: the objects to create     status: the status to write     budgets, quota: what may start

Nothing here knows how an object is read or written.
"""
