"""All I/O with Kubernetes, and with a run's pods.

    API server ─(watch)─> watch_cache, keys of runs        ─(client)─> one request, with retries and ApiError
    runs, budgets, kueue, quota_usage: objects read and written     objects: their JSON as values, and back
    lease: which replica may write     events: Events     progress: a run's progress, by HTTP from its rank 0

Nothing here decides.
"""
