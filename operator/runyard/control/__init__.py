"""The loop that keeps each run moving.

    event, timer ─(wakeups)─> work_queue: one run at a time ─(reconcile)─> observe ─> plan ─> act ─> write status
    budgets: book what runs cost

Nothing here decides about a run: `decide` does.
"""
