"""What a model is trained to do: a module a file, from a packed micro-batch to the sum of its losses."""
