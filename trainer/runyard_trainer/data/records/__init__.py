"""What the objectives learn from: a module a kind of record, without torch.

    Row ─(parse)─> record ─(encode)─> examples, none where nothing of it would be trained on ─> a stream of the dataset
    a stream of the dataset ─(open_samples)─> samples: what one place of a step trains on

A record is what a person wrote: checked here, once, with messages that the reader puts file and line before. What
becomes of it depends on the tokenizer and the recipe alone, so preparing the same again gives the same.
"""
