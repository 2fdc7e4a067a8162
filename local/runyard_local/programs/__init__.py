"""The programs of the control plane: found on this machine, or built from source once and kept.

    pinned version ─(binaries)─> in $RUNYARD_BIN, the cache or PATH? ─ no ─(gobuild)─> built ─(cache)─> kept

Nothing here knows how a program is started.
"""
