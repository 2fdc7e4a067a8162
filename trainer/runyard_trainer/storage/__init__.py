"""Objects on S3 or in a folder: read, list, write, write if unchanged.

`open_store` makes a `Location` of a URI; `probe` shows that an output can be written and that the store keeps
conditional writes, which the fencing of attempts (head.json) rests on. boto3 is known in `storage.s3` alone.
"""
