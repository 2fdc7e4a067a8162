"""What is left out of the data, and why.

    record ─(screening: duplicates, what is held out, what a task asks)─> kept, or a reason
    kept ─(document_scores)─> a score ─(selection: data.select)─> the best of them

Nothing here knows of tokens or shards.
"""
