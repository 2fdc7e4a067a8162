"""Measure a model: as it came, on the way, as it is exported.

    held-out streams ─(evaluate)─> losses           tasks ─(task_answers)─> answers ─(tasks.scores)─> scores
    prompts ─(answers)─> texts ─(judge)─> wins, ties, losses against the model as it came

Nothing here knows of checkpoints or the loop.
"""
