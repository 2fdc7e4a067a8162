"""The resources, as pydantic models: TrainingRun, GPUBudget; their names and labels.

    run_rules ─> trainingrun, gpubudget ─(crd)─> crds/*.yaml

Nothing here does I/O or decides.
"""
