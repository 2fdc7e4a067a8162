"""Read a model's tokenizer, train one on a run's own text, or extend the model's by words of the domain.

    texts ─(encoders: WordPiece; tokenizer: byte-level BPE)─> a new tokenizer
    a model's tokenizer + texts ─(extension)─> the same ids, and new ones after them

Nothing here knows of records or shards.
"""
