"""Proves that the same rows come out of every format and compression, that text stays as it is
(stray quotes, carriage returns, line separators, byte order marks), that memory stays flat, and
that each kind of damaged file is refused with its name and line.
"""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from errors import UserError
from readers import READERS, expand_files, read_rows

ROWS = [
    {"sentence": 'He said "no", twice', "label": "0"},
    {"sentence": "ünï–cödé \u2028 stays", "label": "1"},
    {"sentence": " spaces  ", "label": "1"},
]
PLAIN = {
    ".jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
    ".csv": 'sentence,label\n"He said ""no"", twice",0\nünï–cödé \u2028 stays,1\n" spaces  ",1\n',
    ".tsv": 'sentence\tlabel\nHe said "no", twice\t0\nünï–cödé \u2028 stays\t1\n spaces  \t1\n',
}
COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def parquet_bytes(rows: list[dict]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def save(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("extension", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_same_rows_from_everywhere(tmp_path, extension, compression):
    plain = parquet_bytes(ROWS) if extension == ".parquet" else PLAIN[extension].encode("utf-8")
    path = save(tmp_path, f"a.train{extension}{compression}", COMPRESS[compression](plain))
    assert list(read_rows(path)) == ROWS
    assert list(read_rows(str(path))) == ROWS


@pytest.mark.parametrize("compression", COMPRESS)
def test_lines_of_text(tmp_path, compression):
    data = "one \n\ntwo\r\n\x0bthree\u2028still three\rstill\nlast".encode()
    path = save(tmp_path, f"a.txt{compression}", COMPRESS[compression](data))
    lines = [row["text"] for row in read_rows(path)]
    assert lines == ["one ", "", "two", "\x0bthree\u2028still three\rstill", "last"]


@pytest.mark.parametrize("extension", PLAIN)
def test_windows_line_ends_and_byte_order_mark(tmp_path, extension):
    data = b"\xef\xbb\xbf" + PLAIN[extension].replace("\n", "\r\n").encode("utf-8")
    assert list(read_rows(save(tmp_path, f"a{extension}", data))) == ROWS


@pytest.mark.parametrize("extension", PLAIN)
def test_blank_lines_are_skipped(tmp_path, extension):
    data = PLAIN[extension].replace("\n", "\n\n")
    assert list(read_rows(save(tmp_path, f"a{extension}", data))) == ROWS


def test_tsv_reads_quotes_as_letters(tmp_path):
    path = save(tmp_path, "a.tsv", 'a\tb\n"open\tclose"\nx\t"y"\n')
    assert list(read_rows(path)) == [{"a": '"open', "b": 'close"'}, {"a": "x", "b": '"y"'}]


def test_csv_reads_quoted_line_breaks_and_long_documents(tmp_path):
    document = "word " * 40_000  # the csv module's own limit is 131,072
    path = save(tmp_path, "a.csv", f'text,n\n"two\nlines",1\n"{document}",2\n')
    assert list(read_rows(path)) == [{"text": "two\nlines", "n": "1"}, {"text": document, "n": "2"}]


def test_several_zstd_frames_and_gzip_members(tmp_path):
    for name, compress in (("a.txt.gz", gzip.compress), ("a.txt.zst", COMPRESS[".zst"])):
        path = save(tmp_path, name, compress(b"one\ntw") + compress(b"o\n"))
        assert [row["text"] for row in read_rows(path)] == ["one", "two"]


def test_parquet_keeps_types(tmp_path):
    rows = [{"text": "a", "label": 1, "list": ["x", "y"], "score": 0.5, "none": None}]
    assert list(read_rows(save(tmp_path, "a.parquet", parquet_bytes(rows)))) == rows


def test_folder_of_save_to_disk(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert list(read_rows(tmp_path / "one")) == ROWS
    splits = {"train": datasets.Dataset.from_list(ROWS)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "two")
    with pytest.raises(UserError, match=r"several splits. Name one: .*two/train"):
        list(read_rows(tmp_path / "two"))
    with pytest.raises(UserError, match="is a folder, and not one that save_to_disk wrote"):
        list(read_rows(tmp_path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_memory_stays_flat(tmp_path, name):
    noise = random.Random(0).randbytes(4_000_000).hex()
    lines = (f'{{"text": "{noise[i : i + 1000]}"}}\n' for i in range(0, len(noise), 1000))
    data = "".join(lines).encode()
    path = save(tmp_path, name, COMPRESS[Path(name).suffix.replace(".jsonl", "")](data))
    next(read_rows(path))
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 8000
    assert peak_bytes < 3_000_000 < len(data)


# ---- damaged files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"a": 1}\n\n[1, 2]\n', r"a\.jsonl, line 3: holds '\[1, 2\]', which is no"),
        ("a.txt", b"one\ntwo \xe9\n", r"a\.txt, line 2, byte 5: 0xe9 is not UTF-8"),
        ("a.jsonl", b'{"a": "\xff"}\n', r"a\.jsonl, line 1, byte 8: 0xff is not UTF-8"),
        ("a.csv", b"a\n\xe9\n", r"a\.csv, line 2, byte 1: 0xe9 is not UTF-8"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", r"a\.csv, line 3: 3 cells, but the header names 2 columns"),
        ("a.tsv", "a\tb\n1\n", r"a\.tsv, line 2: 1 cells, but the header names 2 columns \(a, b\)"),
        ("a.csv", 'a,b\n"x,2\n', r"a\.csv, line 2: not readable as CSV \(unexpected end of data"),
        ("a.csv", 'a,b\n"x"y,2\n', r"a\.csv, line 2: not readable as CSV"),
        ("a.csv", "a,b,a\n1,2,3\n", r"a\.csv, line 1: the header names a more than once"),
        ("a.txt", "", r"a\.txt is empty"),
        ("a.jsonl", "\n", r"a\.jsonl is empty"),
        ("a.csv", "a,b\n", r"a\.csv is empty: it holds no rows"),
        ("a.tsv", "", r"a\.tsv is empty"),
        ("a.parquet", parquet_bytes(ROWS[:1])[:-20], r"a\.parquet: not readable as parquet"),
        ("a.parquet", "text", r"a\.parquet: not readable as parquet"),
        ("a.txt.gz", "text", r"a\.txt\.gz: damaged or cut off \(Not a gzipped file"),
        ("a.txt.zst", "text", r"a\.txt\.zst: damaged or cut off"),
        ("a.json", "{}", r"not from '\.json'. Did you mean \.jsonl\?"),
        ("a.doc.gz", "", r"rows are read from \.txt \.jsonl .* not from '\.doc'"),
    ],
)  # fmt: skip
def test_damaged_files(tmp_path, name, data, message):
    with pytest.raises(UserError, match=message):
        list(read_rows(save(tmp_path, name, data)))


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_cut_off_files(tmp_path, compression):
    noise = random.Random(0).randbytes(300_000).hex()
    data = COMPRESS[compression](
        "\n".join(noise[i : i + 99] for i in range(0, 600_000, 99)).encode()
    )
    for kept in (len(data) // 2, len(data) - 1):
        with pytest.raises(UserError, match="damaged or cut off"):
            list(read_rows(save(tmp_path, f"a.txt{compression}", data[:kept])))


def test_missing_file_is_named_at_once(tmp_path):
    save(tmp_path, "sst2.train.jsonl", "{}")
    with pytest.raises(UserError, match=r"holds sst2\.train\.jsonl\. Did you mean sst2\.train"):
        read_rows(tmp_path / "sst2.trian.jsonl")
    with pytest.raises(UserError, match="There is no folder .*nowhere"):
        read_rows(tmp_path / "nowhere" / "a.txt")


def test_table_of_formats():
    assert list(READERS) == [".txt", ".jsonl", ".csv", ".tsv", ".parquet"]


# ---- names of files -----------------------------------------------------------------------------


def test_names_and_globs(tmp_path, monkeypatch):
    for name in ("b.txt", "a.txt", "c[1].txt", "deep/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path, name, "x")
    monkeypatch.chdir(tmp_path)
    for patterns, names in (
        ("b.txt,a.txt", ["a.txt", "b.txt"]),
        ("*.txt", ["a.txt", "b.txt", "c[1].txt"]),
        ("b.txt, *.txt,", ["a.txt", "b.txt", "c[1].txt"]),
        ("c[1].txt", ["c[1].txt"]),
        ("**/*.txt", ["a.txt", "b.txt", "c[1].txt", "deep/d.txt"]),
    ):
        assert expand_files(patterns, flag="--train_file") == [Path(name) for name in names]


def test_names_of_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, "a.txt", "x")
    save(tmp_path, "empty.txt", "")
    (tmp_path / "deep").mkdir()
    for patterns, message in (
        ("*.csv", r"--train_file: no file matches '\*\.csv'.* holds a\.txt, deep, empty\.txt"),
        ("a.txt,b.txt", r"no file matches 'b\.txt'.*Did you mean a\.txt\?"),
        ("none/*.txt", "There is no folder none"),
        ("deep", r"--train_file deep is a folder. Type --train_file 'deep/\*'"),
        ("deep/*", r"The folder deep is empty"),
        ("*.txt", r"--train_file: empty\.txt is empty"),
        (" , ", "names no file. Type --train_file FILE"),
    ):
        with pytest.raises(UserError, match=message):
            expand_files(patterns, flag="--train_file")


def test_a_folder_of_save_to_disk_is_a_name(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert expand_files(str(tmp_path / "one"), flag="--train_file") == [tmp_path / "one"]


# ---- real data ----------------------------------------------------------------------------------


def test_every_shared_file_of_rows_is_read(shared_data):
    paths = [p for p in shared_data.rglob("*") if p.name.endswith((".jsonl", ".jsonl.gz"))]
    assert paths
    for path in paths:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            expected = [json.loads(line) for line in file.read().splitlines()]
        assert list(read_rows(path)) == expected
