"""The parts of the loop: from the prepared data to changed weights, and what watches it.

    prepared data ─(training_data)─> order ─(batches)─> micro-batches ─(step: forward, backward, clip)─> gradient
      ─(optimizer)─> weights ─(state)─> checkpoints                losses ─(best_model)─> which model is exported
    loop ─(observed_run)─> monitor: metrics.csv, /progress; watchdog: stacks of what hangs

Nothing here knows of preparation, evaluation, tracking or export.
"""
