"""Write and read checkpoints: by all ranks, valid only when whole, fenced against attempts that overlap.

    state ─(checkpointer: staged, written and uploaded beside the training)─> files ─(head)─> head.json names it
    head.json ─(files: digests and types verified)─> state

Nothing here knows what the parts of a state hold: `files` has their names alone.
"""
