"""The data of a run, from files to the samples of a step, without torch.

    sources ─> Row ─(records)─> record ─(filters)─> kept ─(records, tokenizers)─> examples ─(dataset)─> shards
    shards ─(dataset)─> stream ─(records)─> samples ─(order)─> which sample is where in which step

Nothing here knows of models, ranks or the loop.
"""
