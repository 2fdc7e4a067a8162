"""`runyard local`: a real Kubernetes control plane, an S3 server and simulated GPU nodes in one directory.

    requirements: can this machine run pods? ─> programs/: find or build the servers' binaries
    lifecycle: instance (ports, paths) ─> servers/: etcd, API server, controllers, S3 ─> node/: an agent per node
               ─> chart: the operator, installed as its users install it
    status: which of these run

For development on one machine: everything listens on loopback and needs neither root nor containers. A package apart:
it knows nothing of the operator or the trainer but the trainer's UserError, and is in no image.
"""
