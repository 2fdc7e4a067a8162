"""The resources, as pydantic models: TrainingRun, GPUBudget; their names, labels and reasons.

    run_rules ─> trainingrun, gpubudget ─(crd)─> crds/*.yaml     reasons: the CamelCase reasons in status

Nothing here does I/O or decides.
"""
