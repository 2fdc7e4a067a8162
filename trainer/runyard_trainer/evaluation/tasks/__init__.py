"""In-context tasks: what is asked of a language model before it is trained and after, and what its answers amount to.

Without torch; the model is asked in `task_answers`.
"""
