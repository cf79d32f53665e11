"""A node's id: created once, atomically, private, and permanent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dalsegno.runtime._node import NodeIdError, is_node_id, node_id_in


def test_a_nodes_id_stays_with_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    first = node_id_in(folder)
    assert is_node_id(first)
    assert node_id_in(folder) == first
    assert node_id_in(tmp_path) != first
    assert [path.name for path in folder.iterdir()] == ["node-id"]
    assert (folder / "node-id").stat().st_mode & 0o777 == 0o600


def test_who_makes_it_at_the_same_time_gets_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        made = set(threads.map(node_id_in, [tmp_path] * 64))
    assert len(made) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["node-id"]


def test_an_id_that_a_person_wrote_is_taken(tmp_path: Path) -> None:
    (tmp_path / "node-id").write_text("  north.1\n")
    assert node_id_in(tmp_path) == "north.1"


@pytest.mark.parametrize("text", ["", "\n", "two words", "x" * 65, "ü", "\udcff"])
def test_what_is_no_id_is_refused(tmp_path: Path, text: str) -> None:
    assert not is_node_id(text)
    (tmp_path / "node-id").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(NodeIdError, match="node-id does not hold a node id"):
        node_id_in(tmp_path)
