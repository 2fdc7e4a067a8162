"""The servers of an instance: etcd, the API server and its controllers, S3.

certs ─> controlplane, s3server ─> command lines, and when each is ready
"""
