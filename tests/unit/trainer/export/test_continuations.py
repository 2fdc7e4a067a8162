"""Which prompts the exported model goes on from."""

from runyard_trainer.export.continuations import choose_prompts


def test_prompts_are_the_beginnings_of_the_first_long_texts_cut_at_a_word() -> None:
    texts = ["too short", *[f"text {i} " + "word " * 100 for i in range(5)]]
    prompts = choose_prompts(texts)
    assert [prompt[:6] for prompt in prompts] == ["text 0", "text 1", "text 2"]
    assert all(prompt.endswith("word") and len(prompt) <= 120 for prompt in prompts)
