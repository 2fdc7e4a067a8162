"""Objects on S3 or in a folder: read, list, write, write if unchanged.

    URI ─(open)─> Location of a store (base) in a bucket (s3) or a folder (folder)
    Location ─(probe)─> can an output be written, and are conditional writes kept? Fencing (head.json) rests on them
    Location ─(patient)─> the same, but it waits minutes for a store that does not answer
    disk, lock: the node's own disk, where it is full and where processes take turns

Nothing here knows what an object holds. boto3 is imported by `s3` alone.
"""
