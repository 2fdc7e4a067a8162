"""What Jobs and Pods say, one fact a module.

    Pod ─(pods)─> phase, node, times ─(endings)─> how an attempt ended ─(stalls, limits)─> does it hang, may it run on
    attempt ─(gpu_seconds)─> cost     reason ─(remedies, placement)─> what to do, which node to avoid

Nothing here decides.
"""
