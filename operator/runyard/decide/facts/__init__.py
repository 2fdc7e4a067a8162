"""Facts derived from Jobs, Pods and status, one a module.

    Pod ─(pods)─> phase, node, times ─(endings)─> how an attempt ended ─(stalls, limits)─> whether it hangs, may run on
    attempt ─(gpu_seconds)─> cost     reason ─(remedies, placement)─> remedy, nodes to avoid

Nothing here decides.
"""
