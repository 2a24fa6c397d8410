"""Tables as people have them: no field is lost, no column hides another one, and usual separators are recognized."""

from __future__ import annotations

from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from siglip_onnx.runtime.bulk.inputs import Inputs, Modality
from siglip_onnx.runtime.errors import InputError

TEXTS = ["a dog, running fast", "two cats; one mouse", "a | b", 'the "best" café', "日本の犬"]


def texts(path: Path, column: str = "text") -> list[tuple[object, str | None]]:
    return [(item.content, item.error) for item in Inputs((str(path),), modality=Modality.TEXT, column=column)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
def test_a_table_that_pandas_writes_is_read_as_pandas_reads_it(tmp_path: Path, separator: str, encoding: str) -> None:
    path = tmp_path / "t.csv"
    pandas.DataFrame({"id": range(len(TEXTS)), "text": TEXTS}).to_csv(path, sep=separator, encoding=encoding)
    expected = list(pandas.read_csv(path, sep=separator, encoding=encoding)["text"])
    assert texts(path) == [(text, None) for text in expected] == [(text, None) for text in TEXTS]


def test_a_surplus_or_missing_field_is_a_row_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,text\n1,a dog, running fast\n2,a cat\n3\n")
    (surplus, error), good, (missing, other) = texts(path)
    assert (surplus, missing, good) == (None, None, ("a cat", None))
    assert error is not None
    assert "3 cells, expected 2" in error
    assert other is not None
    assert "1 cells, expected 2" in other


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,text\na,b\n")
    columns = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, ["text", "text"]), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        with pytest.raises(InputError, match="two columns named 'text'"):
            texts(tmp_path / name)


def test_two_values_of_one_key_are_a_row_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a", "text": "b"}\n{"text": "c"}\n')
    (content, error), good = texts(path)
    assert content is None
    assert error is not None
    assert "'text' occurs twice" in error
    assert good == ("c", None)
