"""A node of `runyard local`: registers a Node object and runs the containers of its pods as local processes.

    agent ─(watch)─> pod_worker, one per pod ─> pod_files, then container_worker, one per container
                     container_worker ─(container/)─> a process; its log ─(logs)─> `kubectl logs`; probes watch it
    agent ─(registration)─> the Node object and its Lease;  addresses: 127.x of node and pods;  etc_hosts: their names
    folders: what is on disk, by which the next agent finds the processes of one that was killed

A development tool, not a kubelet: it pulls no images (everything runs in this Python environment), the network is the
machine's loopback, limits of memory and CPU are not enforced, and GPUs are simulated.
"""
