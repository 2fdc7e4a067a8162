"""The `runyard` command."""
