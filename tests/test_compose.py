"""Text that goes into files and names; composing itself is tested with Hydra's jobs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nnlab import compose
from nnlab.compose import as_json, folder_name

WRITABLE = st.characters(exclude_categories=["Cs"])  # a file in UTF-8 has no half of a pair


@given(
    st.lists(st.text(WRITABLE) | st.integers() | st.from_regex(r"\A[a-z0-9/=.,+_~<:#\[\] -]*\Z"))
)
@settings(deadline=None)
def test_json_is_yaml(value: list[Any]) -> None:
    assert yaml.safe_load(f"key:\n  inner: {as_json(value)}\n") == {"key": {"inner": value}}
    for each in value:
        assert yaml.safe_load(f"- {as_json(each)}\n") == [each]


@pytest.mark.parametrize(
    "text",
    [
        "\x85",
        "\u2028",
        "\x7f",
        "\ufffe",
        "\ufeff",
        "😀",
        "\\ud83d\\ude00",
        "\\😀",
        "on",
        "1e3",
        "08",
    ],
)
def test_json_of_words_that_yaml_reads_otherwise(text: str) -> None:
    assert yaml.safe_load(f"- {as_json(text)}\n") == [text]


def test_folder_names() -> None:
    for bad in ("a=b/c", "a=[x y]", "a='q'", "x=" + "y" * 300, "a=(1)", "a={b:1}", 'a="/"'):
        name = folder_name(bad)
        assert not set(name) & set("/[]{}() '\"\\")
        assert len(name) <= compose.LONGEST_NAME + 9
    assert folder_name("a=b/c") != folder_name("a=b-c") != folder_name("a=b c")
    assert folder_name("x=" + "y" * 300) != folder_name("x=" + "y" * 301)
