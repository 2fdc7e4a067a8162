"""What the operator serves and says: metrics, probes, logs.

Nothing here knows Kubernetes.
"""
