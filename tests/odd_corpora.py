"""Odd corpora, one a line: how it is written, and the texts that must be read (or what the one line
of the refusal holds)."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

A, B, C = "the river was old", "a new court in the city", "light and stone\nover the king"
Build = Callable[[Path], Any]  # writes below the folder; returns what --corpus is given, or None


def lines(*texts: str, end: str = "\n") -> str:
    return "".join(json.dumps({"text": text}) + end for text in texts)


def put(name: str, content: str | bytes, pack: Callable[[bytes], bytes] = bytes) -> Build:
    def build(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pack(content.encode() if isinstance(content, str) else content))

    return build


def all_of(*builds: Build) -> Build:
    def build(folder: Path) -> None:
        for one in builds:
            one(folder)

    return build


def named(build: Build, name: str) -> Build:
    """The file itself instead of its folder."""

    def named_build(folder: Path) -> Path:
        build(folder)
        return folder / name

    return named_build


def link(name: str, to: str) -> Build:
    return lambda folder: (folder / name).symlink_to(folder / to)


def elsewhere(name: str, build: Build) -> Build:
    """A folder beside the corpus, and a link to it inside."""

    def linked(folder: Path) -> None:
        other = folder.with_name(folder.name + "-disk")
        other.mkdir()
        build(other)
        (folder / name).symlink_to(other)

    return linked


def parquet(name: str, **columns: list[Any]) -> Build:
    def build(folder: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)

    return build


zst, gz = zstandard.ZstdCompressor().compress, gzip.compress
BOM = b"\xef\xbb\xbf"

ROWS: list[tuple[str, Build, list[str] | str]] = [
    ("jsonl", put("a.jsonl", lines(A, B)), [A, B]),
    ("content for text", put("a.jsonl", json.dumps({"content": A})), [A]),
    ("no newline at the end", put("a.jsonl", lines(A, B)[:-1]), [A, B]),
    ("empty lines", put("a.jsonl", "\n" + lines(A) + "\n\n" + lines(B)), [A, B]),
    ("null texts", put("a.jsonl", '{"text": null}\n' + lines(A)), [A]),
    ("CRLF between lines", put("a.jsonl", lines(A, B, end="\r\n")), [A, B]),
    ("CRLF in a jsonl text", put("a.jsonl", lines("x\r\ny")), ["x\r\ny"]),
    ("CRLF in a .txt", put("a.txt", "x\r\ny"), ["x\r\ny"]),
    ("a lone carriage return", put("a.txt", "x\ry"), ["x\ry"]),
    (
        "line separators of Unicode",
        put("a.jsonl", '{"text": "x\u2028y\u0085z"}\n'),
        ["x\u2028y\u0085z"],
    ),
    ("a lone surrogate", put("a.jsonl", '{"text": "x\\ud800y"}\n'), ["x\ufffdy"]),
    ("NUL in a text", put("a.jsonl", lines("x\0y")), ["x\0y"]),
    ("a mark before a .txt", put("a.txt", BOM + A.encode()), [A]),
    ("a mark before a .jsonl", put("a.jsonl", BOM + lines(A).encode()), [A]),
    ("a mark before a .jsonl.gz", put("a.jsonl.gz", BOM + lines(A).encode(), gzip.compress), [A]),
    ("a mark before a .jsonl.zst", put("a.jsonl.zst", BOM + lines(A).encode(), zst), [A]),
    ("upper case", put("A.JSONL", lines(A)), [A]),
    ("upper case, packed", put("A.JSONL.GZ", lines(A), gzip.compress), [A]),
    ("ndjson", put("a.ndjson", lines(A, B)), [A, B]),
    ("json.gz of lines, as C4's", put("a.json.gz", lines(A, B), gzip.compress), [A, B]),
    ("json.zst of lines", put("a.json.zst", lines(A, B), zst), [A, B]),
    (
        "txt.gz beside jsonl",
        all_of(put("a.txt.gz", A, gzip.compress), put("b.jsonl", lines(B))),
        [A, B],
    ),
    ("jsonl.bz2", put("a.jsonl.bz2", lines(A, B), bz2.compress), [A, B]),
    ("jsonl.xz", put("a.jsonl.xz", lines(A, B), lzma.compress), [A, B]),
    (
        "two frames of zstd",
        put("a.jsonl.zst", zst(lines(A).encode()) + zst(lines(B).encode())),
        [A, B],
    ),
    (
        "two members of gzip",
        put("a.jsonl.gz", gz(lines(A).encode()) + gz(lines(B).encode())),
        [A, B],
    ),
    ("a json list", named(put("a.json", json.dumps([{"text": A}, {"text": B}])), "a.json"), [A, B]),
    ("a json list of texts", named(put("a.json", json.dumps([A, B])), "a.json"), [A, B]),
    ("a .json of lines", named(put("a.json", lines(A, B)), "a.json"), [A, B]),
    (
        "a .json of lines beside it",
        all_of(put("a.jsonl", lines(A)), put("b.json", lines(B))),
        [A, B],
    ),
    ("settings beside it", all_of(put("a.jsonl", lines(A)), put("info.json", "{")), [A]),
    ("other kinds beside it", all_of(put("a.jsonl", lines(A)), put("b.csv", "x,y")), [A]),
    ("hidden files", all_of(put("a.jsonl", lines(A)), put(".git/b.txt", "no")), [A]),
    ("markdown", put("a.md", "# " + A), ["# " + A]),
    ("folders below", all_of(put("x/y/a.txt", A), put("x/b.txt", B)), [B, A]),
    ("a linked file", all_of(put("a.jsonl", lines(A)), link("b.jsonl", "a.jsonl")), [A, A]),
    (
        "a linked folder",
        all_of(put("a.jsonl", lines(A)), elsewhere("b", put("b.jsonl", lines(B)))),
        [A, B],
    ),
    ("a link to itself", all_of(put("a.jsonl", lines(A)), link("loop", ".")), [A]),
    ("a name of spaces and quotes", put("it's a 'b'.jsonl", lines(A)), [A]),
    ("a name in Chinese", put("\u6587\u672c.jsonl", lines(A)), [A]),
    ("a name that is no UTF-8", lambda f: Path(str(f) + "/\udcff.jsonl").write_text(lines(A)), [A]),
    ("parquet", parquet("a.parquet", text=[A, None, B]), [A, B]),
    ("parquet, content", parquet("a.parquet", content=[A], url=["x"]), [A]),
    # refused
    ("a link to nowhere", all_of(put("a.jsonl", lines(A)), link("b.jsonl", "gone")), "b.jsonl"),
    ("nothing", lambda folder: None, "holds no"),
    ("only other kinds", put("a.csv", "x"), "holds no"),
    ("a missing file", named(lambda folder: None, "gone.jsonl"), "gone.jsonl"),
    ("an unknown ending", named(put("a.csv", "x"), "a.csv"), "a.csv"),
    ("an archive", named(put("a.tar.gz", "x", gzip.compress), "a.tar.gz"), "a.tar.gz"),
    ("empty texts alone", put("a.jsonl", lines("", "  ")), "text"),
    ("not JSON", put("a.jsonl", lines(A) + "{"), "line 2"),
    ("a number a line", put("a.jsonl", "1\n"), "line 1"),
    ("a list a line", put("a.jsonl", '["x"]\n'), "line 1"),
    ("no text in a record", put("a.jsonl", '{"body": "x"}\n'), "body"),
    ("a number for a text", put("a.jsonl", '{"text": 5}\n'), "int"),
    ("a list for a text", put("a.jsonl", '{"text": ["x"]}\n'), "list"),
    ("nesting without end", put("a.jsonl", '{"text": ' + "[" * 100_000), "line 1"),
    ("digits without end", put("a.jsonl", '{"text": 1' + "0" * 10_000 + "}\n"), "line 1"),
    ("Latin-1", put("a.txt", "caf\xe9".encode("latin-1")), "byte 3"),
    ("Latin-1 in a jsonl", put("a.jsonl", lines(A).encode() + b'{"text": "\xe9"}\n'), "byte 40"),
    ("UTF-16", put("a.txt", A.encode("utf-16")), "UTF-8"),
    ("gzip cut short", put("a.jsonl.gz", gzip.compress(lines(A, B).encode())[:-9]), "a.jsonl.gz"),
    ("gzip that is none", put("a.jsonl.gz", lines(A)), "a.jsonl.gz"),
    ("bzip2 cut short", put("a.jsonl.bz2", bz2.compress(lines(A, B).encode())[:-9]), "a.jsonl.bz2"),
    ("xz cut short", put("a.jsonl.xz", lzma.compress(lines(A, B).encode())[:-9]), "a.jsonl.xz"),
    ("xz that is none", put("a.jsonl.xz", lines(A)), "a.jsonl.xz"),
    ("zstd cut short", put("a.jsonl.zst", zst(lines(A, B).encode())[:-4]), "cut short"),
    ("zstd that is none", put("a.jsonl.zst", lines(A)), "zstd"),
    ("parquet that is none", put("a.parquet", "x"), "parquet"),
    ("parquet of numbers", parquet("a.parquet", text=[1, 2]), "int"),
    ("parquet of other columns", parquet("a.parquet", body=[A]), "body"),
]
