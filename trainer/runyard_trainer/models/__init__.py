"""A model before it is sharded: its folder, its config, its weights and what is put around them.

    model.uri, model.run ─(folder, source_checkpoint)─> files ─(config)─> checked config
    config ─> module ─(adapter, quantized, embeddings)─> what is trained; buffers, generation: kept as they came

Nothing here knows more of an objective than its traits, or anything of the loop.
"""
