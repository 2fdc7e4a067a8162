"""What a model is trained to do: a module for each objective. What they learn from is in `data.records`.

    recipe.objective ─(build)─> Objective: samples ─(collate)─> MicroBatch ─(module)─> loss, predictions
    predictions of held-out samples ─(observe)─> facts ─(score)─> metrics


Only the module of the run's own objective is imported: each rank of each attempt would wait for the scorers of all.
"""
