"""The Runyard trainer: prepares data, trains a language model on every rank of a run, and leaves it on S3."""
