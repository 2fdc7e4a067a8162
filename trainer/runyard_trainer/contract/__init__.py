"""What the operator asks of the trainer: the recipe of a run. What comes back is in `outcome`.

A `Recipe` says what to learn, from what, and where to leave it. It is the recipe half of a TrainingRun's spec (the
operator adds compute, recovery and suspend), and a file that a person can run alone:
`python -m runyard_trainer recipe.yaml`.

Nothing here knows Kubernetes or torch: only pydantic is imported, so the operator's image stays small.
"""
