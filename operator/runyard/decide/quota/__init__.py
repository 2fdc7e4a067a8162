"""The arithmetic of quota.

    Kubernetes quantities ─(quantities)─> amounts ─(gangs)─> do all pods of an attempt fit at once, what is in the way

Nothing here knows of runs.
"""
