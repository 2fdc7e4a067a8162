"""A node of `runyard local`: registers a Node object and runs the containers of its pods as local processes.

    agent         node, watch and shutdown: the top of everything
    registration  the Node object and its Lease
    pods          one worker a pod: volumes, containers, status, deletion
    containers    one container: start, exit, restart
    shim          the process above a container: namespaces, log, exit code; outlives the agent
    sandbox       what a container sees of the machine (pure)
    environment   its variables and command (pure)
    volumes       its files
    status        what the pod's status is (pure)
    hosts         names of pods (pure)
    probes        readiness, liveness, startup
    logs          what `kubectl logs` reads
    network       addresses in 127.0.0.0/8
    records       which processes are ours after a crash

What differs from a kubelet: images are not pulled (everything runs in this Python environment), the network is the
machine's loopback, memory and CPU limits are not enforced, GPUs are simulated. A development tool.
"""
