"""`runyard local`: a real Kubernetes control plane, an S3 server and simulated GPU nodes in one directory.

For development and demonstration on one machine: everything listens on loopback, nothing needs root or containers.

    binaries      find or build kube-apiserver, etcd, versitygw, helm and the rest
    machine       can this machine run pods as unprivileged processes?
    instance      one state directory: its ports, nodes and file paths
    certs         the instance's CAs, certificates and signing key
    process       start, recognise and stop a detached process
    controlplane  the command lines of the servers, and when each is ready
    s3server      the same for the S3 server
    node/         the node agent: runs a pod's container as local processes
    chart         the operator, installed from the chart
    lifecycle     up, down and status, made of these
"""
