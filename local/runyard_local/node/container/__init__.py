"""What a container of a simulated node is made of.

    Pod ─(environment, volumes, sandbox: pure)─> variables, files, mounts ─(shim)─> a process in namespaces of its own
    its end ─(status: pure)─> the pod's status

Nothing here talks to the API server.
"""
