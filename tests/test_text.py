"""Foreign text in messages: one line, nothing that a terminal obeys, never long."""

from hypothesis import given
from hypothesis import strategies as st

from moeopt._text import parser_reason, printable


@given(st.text(), st.integers(8, 300))
def test_any_text_becomes_one_short_printable_line(text, most):
    shown = printable(text, most)
    assert shown.isprintable()
    assert len(shown) <= most
    shown.encode()


@given(st.text(st.characters(blacklist_categories=["C", "Z"]), max_size=20))
def test_plain_text_stays_as_it_is(text):
    assert printable(text) == text


def test_what_is_cut_out_is_the_middle():
    assert printable("a" * 200 + "/" + "b" * 200 + ".json", 20) == "aaaaaaa...bbbbb.json"
    assert printable("x" * 20, 20) == "x" * 20
    assert printable("\x1b" * 20, 20) == r"\x1b\x1..." + r"1b\x1b\x1b"


def test_line_ends_codes_marks_and_lone_surrogates_are_escaped():
    assert printable("a\nb\x1b[31m\0\u202e\ud800 \N{SNOWMAN}") == r"a\nb\x1b[31m\x00\u202e\ud800 ☃"


def test_a_parsers_reason_is_its_first_line_or_its_name():
    assert parser_reason(ValueError("\n bad\x1b \nmore")) == r"bad\x1b"
    assert parser_reason(KeyError()) == "KeyError"
    assert len(parser_reason(ValueError("x" * 10**6))) == 200
