"""The servers of an instance: etcd, the API server and its controllers, S3.

    certs ─> controlplane, s3server ─> a command line for each server, and whether it is ready

Nothing here starts a process: `lifecycle` does.
"""
