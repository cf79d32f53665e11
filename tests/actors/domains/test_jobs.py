"""Archives and backups as bytes: what is in them, and what of them is refused."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import given, strategies as st

from dalsegno.actors.domains.jobs import (
    BackupDamagedError,
    Portion,
    PortionReader,
    PortionWriter,
    Zip,
    path_of,
)
from dalsegno.actors.domains.jobs._backup_format import MAGIC

T = TypeVar("T")

NO_SURROGATES = st.characters(exclude_categories=["Cs"])
SCORE = "\N{MUSICAL SCORE}"
TITLES = st.text(NO_SURROGATES, min_size=1, max_size=300)


def done(steps: Generator[None, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            result: T = finished.value
            return result


# --------------------------------------------------------------------------------------- paths


@given(title=TITLES, note_id=st.text(NO_SURROGATES, min_size=1, max_size=200))
def test_any_title_and_any_id_are_a_file_in_the_folder(title: str, note_id: str) -> None:
    path = path_of(note_id, title)
    folder, name = path.split("/")
    assert folder == "notes"
    assert name.endswith(".md")
    assert len(name.encode()) <= 200
    assert not {*name} & {*'<>:"\\|?*'}
    assert name.isprintable() or not any(ord(each) < 32 or 127 <= ord(each) < 160 for each in name)
    assert not name.startswith((".", " "))
    assert path == path_of(note_id, title)


@given(title=TITLES, ids=st.sets(st.text(NO_SURROGATES, min_size=1, max_size=80), max_size=8))
def test_equal_titles_are_different_files_on_any_system(title: str, ids: set[str]) -> None:
    assert len({path_of(each, title).lower() for each in ids}) == len(ids)


@pytest.mark.parametrize(
    ("title", "path"),
    [
        ("From the sign", "notes/From the sign.n1.md"),
        ("a/b", "notes/a-b.n1.md"),
        ("..", "notes/untitled.n1.md"),
        ("../../etc/passwd", "notes/-..-etc-passwd.n1.md"),
        ("CON", "notes/_CON.n1.md"),
        ("nul.txt", "notes/_nul.txt.n1.md"),
        ("x" * 300, f"notes/{'x' * 80}.n1.md"),
        (SCORE * 300, f"notes/{SCORE * 30}.n1.md"),
        (" a \t b ", "notes/a - b.n1.md"),
    ],
)
def test_a_title_is_as_far_as_it_goes_the_name(title: str, path: str) -> None:
    assert path_of("n1", title) == path


# ----------------------------------------------------------------------------------------- zip


@given(
    files=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=20),
        st.binary(max_size=200),
        max_size=8,
    )
)
def test_a_zip_archive_is_one_to_others_and_the_same_again(files: dict[str, bytes]) -> None:
    def made() -> bytes:
        archive = Zip()
        parts = [archive.file(path, data) for path, data in files.items()]
        return b"".join([*parts, *archive.end()])

    opened = zipfile.ZipFile(io.BytesIO(made()))
    assert opened.testzip() is None
    assert {each: opened.read(each) for each in opened.namelist()} == files
    assert made() == made()
    for each in opened.infolist():
        assert each.date_time == (1980, 1, 1, 0, 0, 0)
        assert each.external_attr >> 16 == 0o100644


def test_past_65535_files_it_is_zip64() -> None:
    archive = Zip()
    parts = [archive.file(f"{number}", b"x") for number in range(65_536)]
    opened = zipfile.ZipFile(io.BytesIO(b"".join([*parts, *archive.end()])))
    assert len(opened.namelist()) == 65_536
    assert opened.read("65535") == b"x"


def test_past_4_gib_offsets_have_64_bits() -> None:
    """As a sparse file would have them: the bytes of the first are not there."""
    archive = Zip()
    first = archive.head("large", 2**32 - 2, 0)
    archive.passed(2**32 - 2)
    at = len(first) + 2**32 - 2
    last = archive.file("last", b"the end")
    end = b"".join(archive.end())
    assert struct.pack("<2HQ", 1, 8, at) in end
    assert end[-22:] == struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2, 2, _central(end), 2**32 - 1, 0)
    assert b"PK\6\6" in end
    assert last.endswith(b"the end")


def _central(end: bytes) -> int:
    return end.index(b"PK\6\6")


# -------------------------------------------------------------------------------------- backups

ROWS = st.lists(st.sampled_from(['{"a":1}', '{"b":"é"}', '{"c":[1,2,3]}']), max_size=5)
PORTIONS = st.lists(
    st.tuples(st.sampled_from(["event", "entity"]), st.sampled_from(["w", "é"]), ROWS), max_size=5
)


def written(portions: list[tuple[str, str, list[str]]]) -> bytes:
    writer = PortionWriter()
    everything = [("begin", "", ["{}"]), *portions, ("end", "", ["{}"])]
    return MAGIC + b"".join(done(writer.portion(*each)) for each in everything)


def read(data: bytes, step: int) -> list[Portion]:
    reader, found = PortionReader(), []
    for at in range(0, len(data), step):
        found += reader.feed(data[at : at + step])
    reader.finish()
    return found


@given(portions=PORTIONS, step=st.integers(1, 300))
def test_portions_come_back_however_the_bytes_come(
    portions: list[tuple[str, str, list[str]]], step: int
) -> None:
    found = read(written(portions), step)
    assert [(each.part, each.workspace, each.rows) for each in found[1:-1]] == [
        (part, workspace, len(rows)) for part, workspace, rows in portions
    ]
    assert [each.text for each in found[1:-1]] == [f"[{','.join(rows)}]" for _, _, rows in portions]


@given(portions=PORTIONS, data=st.data())
def test_whatever_is_changed_is_refused(
    portions: list[tuple[str, str, list[str]]], data: st.DataObject
) -> None:
    whole = written(portions)
    at = data.draw(st.integers(0, len(whole) - 1))
    change = data.draw(st.sampled_from(["cut", "flip", "drop", "insert", "behind"]))
    bit = 1 << data.draw(st.integers(0, 7))
    damaged = {
        "cut": whole[:at],
        "flip": whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :],
        "drop": whole[:at] + whole[at + 1 :],
        "insert": whole[:at] + b"x" + whole[at:],
        "behind": whole + b"x",
    }[change]
    with pytest.raises(BackupDamagedError) as caught:
        read(damaged, 64)
    assert caught.value.code == "BACKUP_DAMAGED"


def test_portions_are_neither_left_out_nor_put_elsewhere() -> None:
    first, second = (("event", "w", [f'{{"n":{n}}}']) for n in (1, 2))
    whole = written([first, second])
    writer = PortionWriter()
    everything = (("begin", "", ["{}"]), first, second, ("end", "", ["{}"]))
    lines = [done(writer.portion(*each)) for each in everything]
    assert MAGIC + b"".join(lines) == whole
    begin, one, two, end = lines
    for wrong in ([begin, two, end], [begin, two, one, end], [begin, one, one, two, end]):
        with pytest.raises(BackupDamagedError, match="stands in its place"):
            read(MAGIC + b"".join(wrong), 64)


def test_what_is_no_backup_or_a_later_one_is_said() -> None:
    with pytest.raises(BackupDamagedError, match="no backup of Dal Segno"):
        read(b"PK\3\4 and so on, for long enough", 64)
    with pytest.raises(BackupDamagedError, match="a later release"):
        read(b"dalsegno-backup 2\n{}", 64)
    with pytest.raises(BackupDamagedError, match="ends in the middle"):
        read(MAGIC[:7], 64)


def test_a_portion_that_unpacks_to_more_than_it_says_is_refused() -> None:
    reader = PortionReader()
    reader.feed(MAGIC)
    with pytest.raises(BackupDamagedError, match="line that cannot be read"):
        reader.feed(
            b'{"n":0,"part":"event","workspace":"w","rows":1,"size":999999999999,"bytes":1,'
            b'"sha256":""}\n'
        )
