"""Figures as Markdown, and pages whose tables are written between two marks."""

import pathlib
import sys

END = "<!-- end -->"


def table(header: list[str], rows: list[list[str]], left: int = 1) -> list[str]:
    """A Markdown table whose first `left` columns stand left."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i < left else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return [line(header), rule, *map(line, rows)]


def digits(value: float) -> str:
    """Three digits, whole from 100 on."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.{1 if value >= 9.95 else 2 if value >= 0.995 else 3}f}"


def write(path: pathlib.Path, begin: str, *blocks: list[str]) -> None:
    """Puts blocks of lines between a page's marks, one after the other: `begin`, and the first END after it."""
    rest, result = path.read_text(encoding="utf-8"), ""
    for lines in blocks:
        before, mark, rest = rest.partition(begin)
        _, end, rest = rest.partition(END)
        if not mark or not end:
            sys.exit(f"{path}: it lacks the lines {begin} and {END}, between which a table goes, {len(blocks)} times")
        result += before + begin + "\n" + "\n".join(lines).rstrip("\n") + "\n" + END
    path.write_text(result + rest, encoding="utf-8")
