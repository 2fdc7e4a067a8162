"""Report a run to a tracking server, beside what the run leaves on storage.

    loop ─(NewsSource)─> News: all up to a commit ─(tracker, in a thread)─> mlflow: calls of its REST API
    metrics.csv, candidates ─(scalars)─> values by name and step ─> mlflow, TensorBoard's event file

Nothing here knows of torch, evaluation or export.
"""
