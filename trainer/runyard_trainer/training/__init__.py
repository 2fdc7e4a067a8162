"""The parts of the loop: everything between a batch and a changed weight, and what watches it.

    order ─(batches)─> micro-batches ─(step: forward, backward, clip)─> gradient ─(optimizer)─> weights
    step ─> monitor: metrics.csv, progress; watchdog: does it hang?     losses ─(best_model)─> which is exported

Nothing here knows of preparation, evaluation or export.
"""
