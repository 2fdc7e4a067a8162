"""A container of a simulated node: from the Pod's spec to a process, and from its end to the Pod's status.

    Pod ─(environment, volumes, mounts)─> variables, files, mounts ─(shim)─> a process in namespaces of its own
    states of containers ─(pod_status)─> the Pod's status

Nothing here talks to the API server. environment and pod_status are pure.
"""
