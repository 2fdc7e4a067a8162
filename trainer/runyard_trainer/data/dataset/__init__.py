"""A prepared dataset: shards on storage, and the manifest that names them with their digests.

    examples ─(token_shards, example_shards)─> shards ─(manifest)─> dataset.json ─(dataset)─> streams, read by number

Nothing here knows what an example means: that is in `data.records`.
"""
