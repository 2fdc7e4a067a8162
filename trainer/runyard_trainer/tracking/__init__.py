"""Telling a run to a tracking server, beside what it leaves on storage.

mlflow    the few calls of MLflow's REST API, and what its server knows of the run already
tracker   what is told and when, in a thread of its own
"""
