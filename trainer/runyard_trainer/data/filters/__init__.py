"""Decide which records are trained on, which are held out, and which are left out for what reason.

    record ─(screening: held out, empty, duplicate, contaminated)─> Fate
    the documents that may be trained on ─(document_scores)─> scores ─(selection: data.select)─> Fate
    fates: the reasons, and the fate of each record in a byte, for whoever reads the same records again

Nothing here knows of files, kinds of records or shards.
"""
