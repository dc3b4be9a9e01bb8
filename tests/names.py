"""Names of classes and folders that are no formula, no markup, no HTML and no command."""

from __future__ import annotations

HOSTILE = (
    r"$\foo$",
    "cost in $",
    "[/b]",
    "[red]red",
    ":dog:",
    "\x1b[31mred",
    "two\nlines",
    "bell\x07\r\x00",
    "x" * 300,
    "🐕 犬",
    "&<>\"'",
    "_hidden",
    "{{ 7 * 7 }}",
    "%d %s {}",
    "\u202eright to left",
    "not \udcff UTF-8",
)
