"""A tokenizer that makes a token of every byte and of every special token, and a dialogue as its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runyard_trainer.contract.data import Columns
from runyard_trainer.contract.services import Storage
from runyard_trainer.data.records.chat.encoder import ChatEncoder
from runyard_trainer.data.records.sft import DialogueEncoder, parse_dialogue
from runyard_trainer.data.sources.rows import Row
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer, load_tokenizer
from runyard_trainer.storage.open import open_store
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

END, IM_END = 0, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def open_tokenizer(
    folder: Path, template: str | None = None, opens: bool = False, merges: tuple[tuple[str, str], ...] = ()
) -> DocumentTokenizer:
    """Save a tokenizer of one token a byte, and one for each merge, and open it.

    Args:
        folder: where its files go.
        template: its chat template.
        opens: whether a text begins with the end-of-document token, as it does with some a bos token.
        merges: pairs of characters.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*SPECIAL, *alphabet, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if opens:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], END)]
        )
    fast: Any = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=SPECIAL[0],
        additional_special_tokens=SPECIAL[1:],
        chat_template=template,
    )
    fast.save_pretrained(folder / "model")
    (folder / "tokenizer").mkdir()
    return load_tokenizer(open_store(f"file://{folder}/model", Storage()), folder / "tokenizer", "model.uri")


def encode(tokenizer: DocumentTokenizer, row: dict[str, Any], length: int = 512) -> tuple[str, list[list[int]]]:
    """Return the whole text that a record becomes, and the spans of it that are trained on."""
    encoder = DialogueEncoder(ChatEncoder(tokenizer), length)
    [[example]] = encoder.encode([parse_dialogue(Row(row, "data.jsonl:1", Columns()))])
    text: str = tokenizer.backend.decode(example.columns["input_ids"], skip_special_tokens=False)
    spans = example.columns["spans"]
    return text, [spans[i : i + 2] for i in range(0, len(spans), 2)]
