"""Clients of other servers that a recipe names.

    request ─(http: retries, time limits, errors in words)─> a judge's chat completions, MLflow's REST API

Nothing here knows what is asked, or what an answer means. Without torch.
"""
