"""Measure a model: before the first step, during training, as it is exported.

    held-out streams ─(evaluate)─> losses          held-out records ─(answers)─> texts ─> exactMatch, ROUGE
    tasks ─(task_answers)─> likelihoods, texts ─(tasks.scores)─> metrics
    prompts ─(task_answers)─> texts, before and after ─(judge)─> wins, ties, losses
    evaluator: all of these for one model of a run; source_model: for the model before its first step

Nothing here knows of checkpoints, tracking or export.
"""
