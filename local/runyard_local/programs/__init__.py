"""The programs of the control plane: found on this machine, or built from source once and kept.

pinned versions ─(binaries)─> in the cache? ─ no ─(gobuild)─> built ─(cache)─> kept
"""
