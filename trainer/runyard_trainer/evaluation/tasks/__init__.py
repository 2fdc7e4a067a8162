"""In-context tasks for a language model: questions with shots, frozen when the run is prepared, and their metrics.

    records ─(kinds, presets)─> Question ─(build: shots, tokens)─> Item ─> FrozenTasks
    answers ─(scores)─> accuracy, F1

Nothing here knows of torch: the model answers in `task_answers`.
"""
