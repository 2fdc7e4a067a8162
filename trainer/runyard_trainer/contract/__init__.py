"""What the operator asks of the trainer (a recipe), and what the trainer reports back.

    base ─> data, objectives, models, services, tasks ─> training ─> rules ─> recipe ─> reading
    base ─> fields ─> the CRD, the dataset's key, messages       reports, exits: what comes back

A recipe is the recipe half of a TrainingRun's spec, and a file that a person can run alone:
`python -m runyard_trainer recipe.yaml`. Nothing here knows Kubernetes or torch. Only pydantic is imported, and yaml
in `reading`, which the operator's image leaves out.
"""
