"""What a model is trained to do: a module an objective. What they learn from is in `records`.

Only the module of the run's own objective is imported: each rank of each attempt would wait for the scorers of all.
"""
