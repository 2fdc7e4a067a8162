"""Log records as one line of text, or as a JSON object."""

from __future__ import annotations

import json
import logging
import sys

from runyard.serving.logs import JsonFormatter, OneLineFormatter


def build_record() -> logging.LogRecord:
    try:
        int("broken")
    except ValueError:
        return logging.LogRecord("runyard", logging.WARNING, "", 1, "of %s", ("two\nlines",), sys.exc_info())
    raise AssertionError("a word is no number")


def test_a_log_record_is_one_line_even_with_a_traceback() -> None:
    line = OneLineFormatter().format(build_record())
    assert "\n" not in line
    assert "WARNING runyard of two\\nlines" in line
    assert "ValueError: invalid literal" in line


def test_a_log_record_of_text_holds_nothing_that_speaks_to_a_terminal() -> None:
    said = "red \x1b[31m, back \r, bell \x07, \x9b and ü"
    line = OneLineFormatter().format(logging.LogRecord("runyard", logging.INFO, "", 1, said, (), None))
    assert line.endswith(r"red \x1b[31m, back \r, bell \x07, \x9b and ü")


def test_a_log_record_can_be_a_json_object() -> None:
    fields = json.loads(JsonFormatter().format(build_record()))
    assert (fields["level"], fields["message"]) == ("WARNING", "of two\nlines")
    assert fields["traceback"].splitlines()[-1].startswith("ValueError")
