"""The output of the operator process: metrics, probes, logs.

Nothing here knows Kubernetes.
"""
