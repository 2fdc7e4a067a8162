"""The arithmetic of quota.

    Kubernetes quantities ─(quantities)─> amounts ─(gangs)─> whether all pods of an attempt fit at once, and what is in the way

Nothing here knows of runs.
"""
