"""All I/O with Kubernetes, and with a run's pods.

    API server ─(watch: kopf)─> events ─> who waits for them      ─(client)─> requests, errors in words
    runs: a run and what belongs to it, read and written     progress: the trainer's own numbers, by HTTP

Nothing here decides.
"""
