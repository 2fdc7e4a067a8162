"""What the ranks of a run exchange, and what each finds on its node.

    environment ─> gpus: are they there? ─> distributed: join the others ─> agreement: decide alike

Nothing here knows of models, data or storage.
"""
