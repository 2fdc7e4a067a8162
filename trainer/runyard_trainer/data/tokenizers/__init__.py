"""Tokenizers: read with a model, trained on a run's own text, or extended by the domain's words.

    texts ─(encoders: WordPiece; tokenizer: byte-level BPE)─> a new tokenizer
    a model's tokenizer + texts ─(extension)─> the same ids, and new ones after them

Nothing here knows of records or shards.
"""
