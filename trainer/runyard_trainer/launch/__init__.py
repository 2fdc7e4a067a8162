"""PID 1 of a training pod: one process per rank, one exit code and one report for the pod.

    environment ─> PodRanks ─(workers)─> processes: output to the log, signals to them, their ends in order
    ends + each rank's own report ─> PodReport ─> termination message, exit code

Nothing here knows how a rank trains; torch is not imported, so workers start at once.
"""
