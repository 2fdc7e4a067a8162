"""What the objectives learn from: a module for each kind of record, without torch.

    Row ─(parse)─> record ─(encode)─> examples, none where nothing of it would be trained on ─> a stream of the dataset
    a stream of the dataset ─(open_samples)─> samples: what one place of a step trains on

A record is what a person wrote: it is checked here, once, and the reader puts file and line before each message. Its
examples depend on the tokenizer and the recipe alone, so preparing the same data again gives the same dataset.
`kinds` knows which kind a stream has; conversations are read and laid out in `chat`, fields that would be lost are
refused by `unread`.
"""
