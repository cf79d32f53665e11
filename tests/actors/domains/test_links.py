"""Links after a patch, against a text that is read whole."""

from __future__ import annotations

import re

from hypothesis import given, strategies as st

from dalsegno.actors.domains.notes._links import links_after, links_in, title_digest
from dalsegno.protocol import PatchOp, apply_patch

pieces = st.sampled_from(
    ["[", "[[", "]]", "]", "a", "B", "[[a]]", "[[B]]", "\n", "x", "x" * 150, "x" * 300, "x" * 301]
)
texts = st.lists(pieces, max_size=14).map("".join)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), pieces),
        st.tuples(st.sampled_from(["retain", "delete"]), st.sampled_from([0, 1, 2, 5, 400])),
    ),
    max_size=5,
)


@given(texts)
def test_links_are_those_of_the_model(text: str) -> None:
    titles = re.findall(r"\[\[([^\[\]\n]{1,300})\]\]", text)
    assert links_in(text) == tuple(dict.fromkeys(map(title_digest, titles)))


@given(texts, steps)
def test_what_a_patch_leaves_of_the_links_is_what_a_reader_of_the_whole_text_finds(
    text: str, script: list[tuple[str, str | int]]
) -> None:
    ops, left = list[PatchOp](), len(text)
    for kind, what in script:
        if isinstance(what, str):
            ops.append(PatchOp(insert=what))
        else:
            count = min(what, left)
            left -= count
            ops.append(PatchOp(retain=count) if kind == "retain" else PatchOp(delete=count))
    after = apply_patch(text, ops)
    assert links_after(links_in(text), text, after, ops) == links_in(after)
