"""The parts of `prepare`: what is known, and written, before a GPU is asked for.

    recipe ─(output)─> claimed ─(key)─> known already?
      no ─> dataset_writer ─(stream_writer)─> dataset
    dataset ─(learnable)─> worth training on ─(resolve, estimate)─> what was automatic, what it takes ─(preview)─> shown

Nothing here trains; torch is not needed.
"""
