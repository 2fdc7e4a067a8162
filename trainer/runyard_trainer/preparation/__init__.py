"""The parts of `prepare`: check, write and show everything that can be known before a GPU is asked for.

    recipe ─(output)─> output claimed ─(record_streams)─> files ─(key)─> prepared already?
      no ─> records ─(fates)─> decided records ─(tokenizer, dataset_writer, stream_writer)─> dataset
    dataset ─(learnable)─> worth training on ─(resolve, estimate)─> steps, batch, cost
    first_rows of the same files ─(fates, preview)─> preview.json

Nothing here trains; torch is not needed.
"""
