"""Clients of other servers that a recipe names.

    a prompt ─(chat_completions)─┐
    MLflow's REST calls ─────────┴─(http: retries, time limits, no secrets in messages)─> the server

Nothing here knows what a prompt asks or what an answer means. Without torch.
"""
