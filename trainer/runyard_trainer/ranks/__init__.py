"""The ranks of a run: each finds its GPU, joins the others and decides with them.

    RunContext ─(gpus)─> are the GPUs there? ─(distributed)─> joined: sums and values over ranks in the training loop
    joined ─(agreement)─> values and failures beside the loop, over a process group of their own

Nothing here knows of models, data or storage.
"""
