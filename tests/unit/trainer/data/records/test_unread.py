"""Fields that a model should see, or that say what to learn: trained with, or refused by name, never dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.contract.data import Columns
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.data.records.classification import parse_labelled_text
from runyard_trainer.data.records.preference import build_dialogues, parse_answer_pair
from runyard_trainer.data.records.question_answering import parse_question
from runyard_trainer.data.records.sft import KIND, parse_dialogue
from runyard_trainer.data.records.text import parse_document, parse_text
from runyard_trainer.data.sources.rows import BadRecord, Row
from runyard_trainer.evaluation.judge.prompts import parse_prompt
from runyard_trainer.evaluation.tasks.kinds import parse_choices, parse_labelled

from tests.unit.trainer.bad_records import explain, prepare_lines
from tests.unit.trainer.data.records.byte_tokenizer import CHATML, encode, open_tokenizer

USER, ASSISTANT = {"role": "user", "content": "who is there"}, {"role": "assistant", "content": "the cat"}
OTHER = {"role": "assistant", "content": "nobody"}
SAYING = [{"from": "human", "value": "who is there"}, {"from": "gpt", "value": "the cat"}]

SFT: dict[str, dict[str, Any]] = {
    "prompt-completion": {"prompt": "who is there", "completion": "the cat"},
    "messages": {"messages": [USER, ASSISTANT]},
    "alpaca": {"instruction": "who is there", "input": "", "output": "the cat"},
    "conversations": {"conversations": SAYING},
}
PAIRS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "who is there", "chosen": "the cat", "rejected": "nobody"},
    "chats": {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]},
    "openai": {"input": {"messages": [USER]}, "preferred_output": [ASSISTANT], "non_preferred_output": [OTHER]},
}
CHAT_FORMATS = ("messages", "alpaca", "conversations")

LOST: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "find_dog"}}],
    "functions": [{"name": "find_dog"}],
    "documents": [{"title": "a", "text": "dogs bark"}],
    "contexts": ["dogs bark"],
    "context": "dogs bark",
    "images": ["a.png"],
    "image": "a.png",
    "videos": ["a.mp4"],
    "audios": [{"path": "a.wav"}],
    "chat_template_kwargs": {"enable_thinking": False},
    "system_prompt": "be a pirate",
    "systemInstruction": "be a pirate",
    "chat_history": [["hi", "ho"]],
    "reasoning_content": "cats purr",
    "thinking": "cats purr",
    "loss_mask": [0, 1],
    "mask": "User",
    "weight": 0.5,
}
LOST_OF_ANSWERS = {"kto_tag": False, "label": False, "chosen": "the dog", "rejected": [OTHER]}
NOTHING = [None, "", " \n", "[]", [], {}, [None], [[]], {"name": None, "arguments": ""}, [{"url": ""}]]
PASSED_OVER = {
    "id": 7,
    "source": "web",
    "category": "pets",
    "dataset": "cats",
    "url": "http://x",
    "language": "en",
    "score": 0.5,
    "metadata": {"system": "linux", "tools": ["git"]},
    "label": "pets",
    "title": "Cats",
    "split": "a",
    "model": "m",
    "prompt_id": "p",
    "rating": 3,
    "is_good": True,
    "weight": 1,
}


def row_of(fields: dict[str, Any], **columns: str) -> Row:
    return Row(fields, "data.jsonl:1", Columns(**columns))


def refusal(parse: Any, fields: dict[str, Any], **columns: str) -> str:
    with pytest.raises(BadRecord) as caught:
        parse(row_of(fields, **columns))
    return str(caught.value)


def turns_of(fields: dict[str, Any], **columns: str) -> list[tuple[str, str, bool]]:
    return [(turn.role, turn.content, turn.is_trained) for turn in parse_dialogue(row_of(fields, **columns)).turns]


# ------------------------------------------------------------------------------------------------------------------ sft


@pytest.mark.parametrize("name", [*LOST, *LOST_OF_ANSWERS])
@pytest.mark.parametrize("format_", SFT)
def test_what_stands_beside_a_dialogue_is_refused_by_name_with_a_remedy(format_: str, name: str) -> None:
    told = refusal(parse_dialogue, SFT[format_] | {name: (LOST | LOST_OF_ANSWERS)[name]})
    assert told.startswith(f"field {name!r} is not trained on: ")
    assert len(told.partition(": ")[2]) > 20


@pytest.mark.parametrize("name", ["system", "history", "input", "question"])
def test_a_prompt_that_is_a_text_takes_no_turns_and_inputs(name: str) -> None:
    value: Any = [["hi", "ho"]] if name == "history" else "be a pirate"
    assert refusal(parse_dialogue, SFT["prompt-completion"] | {name: value}) == (
        f"field {name!r} is not trained on: write it into the prompt, or remove the field"
    )


@pytest.mark.parametrize("nothing", NOTHING, ids=repr)
@pytest.mark.parametrize("format_", SFT)
def test_fields_with_nothing_in_them_are_passed_over(format_: str, nothing: Any) -> None:
    row = SFT[format_]
    beside = dict.fromkeys([*LOST, "system", "history", "kto_tag", "chosen"], nothing)
    assert turns_of(row | beside) == turns_of(row)


@pytest.mark.parametrize("format_", SFT)
def test_fields_that_tell_where_a_record_is_from_are_passed_over(format_: str) -> None:
    assert turns_of(SFT[format_] | PASSED_OVER) == turns_of(SFT[format_])


def test_text_that_the_record_has_anyway_is_not_lost() -> None:
    beside = {"instruction": "find it", "input": "the red house", "documents": ["a cat", {"text": "a dog"}]}
    whole = {"prompt": "find it\n\nthe red house, a cat, a dog:", "completion": "there"}
    assert turns_of(whole | beside) == turns_of(whole)
    assert "'input'" in refusal(parse_dialogue, whole | {"input": "the blue house"})
    assert "'documents'" in refusal(parse_dialogue, whole | {"documents": ["a cat", "a bird"]})


def test_the_context_of_an_instruction_can_be_named_as_its_input() -> None:
    dolly = {"instruction": "who is there", "context": "a cat is", "response": "the cat", "category": "qa"}
    assert refusal(parse_dialogue, dolly, output="response") == (
        "field 'context' is not trained on: say in columns.input which field is the input, or remove this one"
    )
    assert turns_of(dolly, output="response", input="context")[0] == ("user", "who is there\n\na cat is", False)
    both = dolly | {"input": "of the red house"}
    assert "'input'" in refusal(parse_dialogue, both, output="response", input="context")


def test_one_answer_of_a_pair_is_learned_where_the_recipe_says_so() -> None:
    pair = {"messages": [USER, ASSISTANT], "chosen": [ASSISTANT], "rejected": [OTHER]}
    told = refusal(parse_dialogue, pair)
    assert told.startswith("field 'chosen' is not trained on: pairs of answers are for objective preference")
    row = Row(pair, "data.jsonl:1", Columns(), record_format="messages")
    assert [turn.content for turn in parse_dialogue(row).turns] == ["who is there", "the cat"]
    assert turns_of(PAIRS["texts"], completion="chosen")[1] == ("assistant", "the cat", True)


@pytest.mark.parametrize("value", [True, False, "True", "false"])
def test_a_label_that_calls_an_answer_good_or_bad_is_no_category(value: Any) -> None:
    assert "field 'label' is not trained on: leave out the answers" in refusal(
        parse_dialogue, SFT["prompt-completion"] | {"label": value}
    )


def test_a_column_that_the_recipe_names_and_the_format_does_not_read_is_refused() -> None:
    told = refusal(parse_dialogue, SFT["prompt-completion"] | {"persona": "a pirate"}, system="persona")
    assert told.startswith("field 'persona' is not trained on: ")


MESSAGE_FIELDS: dict[str, Any] = {
    "tool_calls": [{"function": {"name": "find_dog"}}],
    "function_call": {"name": "find_dog", "arguments": "{}"},
    "toolCalls": [{"function": {"name": "find_dog"}}],
    "tools": [{"name": "find_dog"}],
    "tool_call_id": "1",
    "reasoning_content": "cats purr",
    "reasoning": "cats purr",
    "thinking": "cats purr",
    "name": "tom",
    "images": ["a.png"],
    "image": "a.png",
    "audio": {"id": "1"},
    "video": "a.mp4",
    "documents": ["dogs bark"],
    "refusal": "no",
    "chat_template_kwargs": {"enable_thinking": False},
    "mask": 1,
    "loss_mask": 0,
    "train": False,
    "loss": False,
    "trainable": 0,
}


@pytest.mark.parametrize("name", MESSAGE_FIELDS)
@pytest.mark.parametrize("format_", ["messages", "conversations"])
def test_what_a_message_has_besides_is_refused_by_its_place(format_: str, name: str) -> None:
    first, second = SFT[format_][format_]
    told = refusal(parse_dialogue, {format_: [first, second | {name: MESSAGE_FIELDS[name]}]})
    assert told.startswith(f"field '{format_}[1].{name}' is not trained on: ")


@pytest.mark.parametrize("nothing", NOTHING, ids=repr)
def test_fields_of_a_message_with_nothing_in_them_are_passed_over(nothing: Any) -> None:
    beside = dict.fromkeys(MESSAGE_FIELDS, nothing)
    assert turns_of({"messages": [USER | beside, ASSISTANT | beside]}) == turns_of(SFT["messages"])


def test_flags_that_ask_for_what_is_done_anyway_are_passed_over() -> None:
    user, last = USER | {"train": False, "loss": 0}, ASSISTANT | {"train": True, "loss": 1, "weight": 1}
    first = ASSISTANT | {"train": False, "weight": 0, "id": "m1", "timestamp": 7, "model": "m"}
    assert [trained for *_, trained in turns_of({"messages": [user, first, user, last]})] == [False, False, False, True]


# --------------------------------------------------------------------------------------------------- system and history


@pytest.mark.parametrize("format_", CHAT_FORMATS)
def test_the_system_beside_a_conversation_is_its_first_turn(tmp_path: Path, format_: str) -> None:
    row = SFT[format_] | {"system": "be a pirate"}
    text, [[start, end]] = encode(open_tokenizer(tmp_path, CHATML), row)
    assert text == (
        "<|im_start|>system\nbe a pirate<|im_end|>\n<|im_start|>user\nwho is there<|im_end|>\n"
        "<|im_start|>assistant\nthe cat<|im_end|>\n"
    )
    assert end - start == len("the cat") + 1
    mapped = SFT[format_] | {"system_prompt": "be a pirate"}
    assert turns_of(mapped, system="system_prompt") == turns_of(row)
    record = parse_dialogue(row_of(row))
    assert parse_dialogue(row_of(KIND.to_json(record))).turns == record.turns


@pytest.mark.parametrize("format_", ["messages", "conversations"])
def test_a_conversation_has_one_system(format_: str) -> None:
    first = (
        {"role": "system", "content": "be a pirate"}
        if format_ == "messages"
        else {"from": "system", "value": "be a pirate"}
    )
    row = {format_: [first, *SFT[format_][format_]]}
    assert turns_of(row | {"system": "be a pirate\n"}) == turns_of(row)
    assert refusal(parse_dialogue, row | {"system": "be good"}) == (
        f"field 'system' and the first of {format_!r} are both the system's, and differ: keep one"
    )
    key = "content" if format_ == "messages" else "value"
    silent = {format_: [first | {key: ""}, *SFT[format_][format_]], "system": "be good"}
    assert [turn[:2] for turn in turns_of(silent)][:2] == [("system", "be good"), ("user", "who is there")]


def test_a_system_that_is_no_text_is_refused() -> None:
    told = refusal(parse_dialogue, SFT["messages"] | {"system": [{"text": "be a pirate"}]})
    assert told == "field 'system' is a list, not a string"


def test_history_is_earlier_turns_and_their_answers_are_learned(tmp_path: Path) -> None:
    row = SFT["alpaca"] | {"system": "be a pirate", "history": [["hi", "ho"], ["and now", "nothing"]]}
    assert turns_of(row) == [
        ("system", "be a pirate", False),
        ("user", "hi", False),
        ("assistant", "ho", True),
        ("user", "and now", False),
        ("assistant", "nothing", True),
        ("user", "who is there", False),
        ("assistant", "the cat", True),
    ]
    text, spans = encode(open_tokenizer(tmp_path, CHATML), row)
    assert text.index("hi<") < text.index("nothing<") < text.index("the cat<")
    assert len(spans) == 3
    mapped = {name: value for name, value in row.items() if name != "history"} | {"past": row["history"]}
    assert turns_of(mapped, history="past") == turns_of(row)


@pytest.mark.parametrize(
    ("history", "want"),
    [
        ("hi", "field 'history' is a string, not a list of pairs: what the user said, and the answer"),
        ([["hi"]], "field 'history[0]' is no pair of texts: write what the user said, and the answer"),
        ([["hi", "ho", "hu"]], "field 'history[0]' is no pair of texts: write what the user said, and the answer"),
        (
            [["hi", "ho"], ["and", ""]],
            "field 'history[1]' is no pair of texts: write what the user said, and the answer",
        ),
        ([["hi", 7]], "field 'history[0][1]' is a number, not a string"),
        ([{"user": "hi"}], "field 'history[0]' is an object, not a list of strings"),
    ],
    ids=["a text", "one", "three", "an empty answer", "a number", "an object"],
)
def test_history_that_is_no_list_of_pairs_is_refused(history: Any, want: str) -> None:
    assert refusal(parse_dialogue, SFT["alpaca"] | {"history": history}) == want


TEMPLATES = {
    "one that refuses it": (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system please') }}{% endif %}" + CHATML,
        "data.jsonl:1: the model's chat template refuses this conversation: no system please",
    ),
    "one that passes over it": (
        CHATML.replace("{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"),
        "data.jsonl:1: the model's chat template leaves out what the system says: mend the template, or write it into "
        "the first message of the user",
    ),
}


@pytest.mark.parametrize(("template", "want"), TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("format_", CHAT_FORMATS)
def test_a_template_without_a_system_is_told(tmp_path: Path, format_: str, template: str, want: str) -> None:
    tokenizer = open_tokenizer(tmp_path, template)
    with pytest.raises(UserError) as caught:
        encode(tokenizer, SFT[format_] | {"system": "be a pirate"})
    assert str(caught.value) == want
    assert caught.value.code is ExitCode.DATA_ERROR
    assert encode(tokenizer, SFT[format_])[1]


def test_a_template_may_trim_and_fold_what_the_system_says(tmp_path: Path) -> None:
    template = CHATML.replace("message['content']", "(message['content'] | trim | replace('\n', ' '))")
    assert (
        "be a pirate" in encode(open_tokenizer(tmp_path, template), SFT["messages"] | {"system": " be a\npirate\n"})[0]
    )


# -------------------------------------------------------------------------------------------------------- other records


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("shape", PAIRS)
def test_what_stands_beside_a_pair_is_refused_by_name(shape: str, name: str) -> None:
    assert refusal(parse_answer_pair, PAIRS[shape] | {name: LOST[name]}).startswith(
        f"field {name!r} is not trained on: "
    )


@pytest.mark.parametrize("shape", PAIRS)
def test_a_pair_with_other_fields_is_as_one_without(shape: str) -> None:
    beside = PASSED_OVER | {"tools": [], "system": "", "history": [], "images": None}
    assert parse_answer_pair(row_of(PAIRS[shape] | beside)) == parse_answer_pair(row_of(PAIRS[shape]))


@pytest.mark.parametrize("shape", ["chats", "openai"])
def test_the_system_beside_chats_is_the_first_message_of_their_prompt(shape: str) -> None:
    pair = parse_answer_pair(row_of(PAIRS[shape] | {"system": "be a pirate"}))
    assert [[turn.content for turn in dialogue.turns] for dialogue in build_dialogues(pair)] == [
        ["be a pirate", "who is there", "the cat"],
        ["be a pirate", "who is there", "nobody"],
    ]


@pytest.mark.parametrize("name", ["system", "history", "input", "instruction", "context"])
def test_a_pair_of_texts_has_all_of_its_prompt_in_one_place(name: str) -> None:
    told = refusal(parse_answer_pair, PAIRS["texts"] | {name: "be a pirate"})
    assert told == f"field {name!r} is not trained on: write it into the prompt, or remove the field"


@pytest.mark.parametrize("name", ["tool_calls", "reasoning_content", "name", "images", "train", "mask"])
@pytest.mark.parametrize("part", ["prompt", "chosen", "rejected"])
def test_a_message_of_a_pair_is_refused_so_too(part: str, name: str) -> None:
    value = part == "prompt" if name == "train" else MESSAGE_FIELDS[name]
    [message] = PAIRS["chats"][part]
    told = refusal(parse_answer_pair, PAIRS["chats"] | {part: [message | {name: value}]})
    assert told.startswith(f"field '{part}[0].{name}' is not trained on: ")


def test_what_openai_has_beside_the_messages_of_an_input_is_refused() -> None:
    row = PAIRS["openai"] | {"input": {"messages": [USER], "functions": [{"name": "find_dog"}]}}
    assert refusal(parse_answer_pair, row).startswith("field 'input.functions' is not trained on: ")


PAIRED = [
    *[("sentence1", "sentence2"), ("question1", "question2"), ("premise", "hypothesis"), ("question", "sentence")],
    *[("question", "passage"), ("text", "text2"), ("text", "text_b"), ("text", "hypothesis"), ("textA", "textB")],
]


@pytest.mark.parametrize(("first", "second"), PAIRED)
@pytest.mark.parametrize("label", [{"label": "yes"}, {"labels": ["yes"]}], ids=["one class", "several"])
def test_a_second_text_under_another_name_is_refused(first: str, second: str, label: dict[str, Any]) -> None:
    row = {first: "a cat", second: "a dog", **label}
    assert refusal(parse_labelled_text, row, text=first) == (
        f"field {second!r} is not read: say in columns.text_pair which field is the second text, or remove this one"
    )
    found = parse_labelled_text(row_of(row, text=first, text_pair=second))
    assert (found.text, found.text_pair) == ("a cat", "a dog")
    assert parse_labelled_text(row_of({first: "a cat", second: "", **label}, text=first)).text_pair is None


def test_a_text_that_was_made_of_both_is_whole() -> None:
    row = {"text": "a cat [SEP] a dog", "sentence1": "a cat", "sentence2": "a dog", "label": 1, "idx": 3, "title": "T"}
    assert parse_labelled_text(row_of(row)).text_pair is None


@pytest.mark.parametrize("answer", ["output", "completion", "instruction", "messages"])
def test_the_input_of_an_instruction_is_no_document(answer: str) -> None:
    told = refusal(parse_text, {"input": "the red house", answer: "who lives there"})
    assert told.startswith(f"fields 'input' and {answer!r} are there, which is no document: learn answers with")
    assert parse_text(row_of({"input": "the red house", answer: ""})) == "the red house"
    assert parse_text(row_of({"input": "the red house", answer: "x"}, text="input")) == "the red house"


@pytest.mark.parametrize(
    ("name", "value"),
    [("labels", [-100, 5, 6]), ("attention_mask", [1, 1, 0]), ("loss_mask", [0, 1, 1]), ("assistant_masks", [0, 0, 1])],
)
def test_token_ids_that_are_not_all_learned_are_refused(name: str, value: list[int]) -> None:
    ids = [4, 5, 6]
    assert refusal(parse_document, {"input_ids": ids, name: value}).startswith(f"field {name!r} ")
    same = {"input_ids": ids, "labels": ids, "attention_mask": [1, 1, 1], "loss_mask": None, "id": "a"}
    assert parse_document(row_of(same)) == parse_document(row_of({"input_ids": ids}))


def test_what_was_asked_before_a_question_is_refused() -> None:
    row = {"context": "a cat is there", "question": "who", "answers": {"text": ["a cat"], "answer_start": [0]}}
    assert parse_question(row_of(row | {"title": "Cats", "history": []})).question == "who"
    assert refusal(parse_question, row | {"history": ["where"]}).startswith("field 'history' is not trained on: ")


@pytest.mark.parametrize("name", ["tools", "context", "images", "chat_history"])
def test_what_a_judges_prompts_and_a_tasks_questions_have_besides_is_refused(name: str) -> None:
    beside = {name: LOST[name]}
    for parse, row in (
        (parse_prompt, {"prompt": "who is there"}),
        (parse_prompt, {"messages": [USER]}),
        (parse_choices, {"prompt": "who is there", "choices": ["a cat", "a dog"], "answer": 0}),
        (parse_labelled, {"prompt": "who is there", "label": "cat"}),
    ):
        assert refusal(parse, row | beside).startswith(f"field {name!r} is not read: ")
        parse(row_of(row | PASSED_OVER | {"label": "cat"}))


def test_a_judges_prompt_begins_with_the_system_beside_it() -> None:
    turns = parse_prompt(row_of({"messages": [USER], "system": "be a pirate"})).turns
    assert [turn.content for turn in turns] == ["be a pirate", "who is there"]
    told = refusal(parse_prompt, {"messages": [USER | {"name": "tom"}]})
    assert told.startswith("field 'messages[0].name' is not read: ")


# ---------------------------------------------------------------------------------------------------------- whole files


def test_a_refused_field_is_told_by_file_and_line(tmp_path: Path) -> None:
    rows = [SFT["messages"], SFT["messages"] | {"tools": LOST["tools"]}]
    assert explain(tmp_path, "sft", *rows) == (
        "data.jsonl:2: field 'tools' is not trained on: write them as text into a message, or remove the field"
    )


def test_refused_rows_are_left_out_as_other_wrong_ones_but_never_all_of_them(tmp_path: Path) -> None:
    good = [{"prompt": f"who is {number}", "completion": "the cat"} for number in range(30)]
    bad = [row | {"tools": LOST["tools"]} for row in good]
    (tmp_path / "some").mkdir()
    prepare_lines(tmp_path / "some", "sft", *good[:-1], bad[-1], data={"invalidRows": "Drop"})
    [manifest] = (tmp_path / "some" / ".runyard").rglob("dataset.json")
    assert json.loads(manifest.read_text())["streams"]["train"]["leftOut"] == {"invalid": 1}
    (tmp_path / "all").mkdir()
    told = explain(tmp_path / "all", "sft", *bad, data={"invalidRows": "Drop"})
    assert "30 of 30 are wrong" in told
    assert "data.jsonl:1: field 'tools' is not trained on" in told
