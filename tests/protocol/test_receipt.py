"""A receipt survives in what is kept of it, and then says that it is a repeat."""

from __future__ import annotations

from msgspec.structs import replace

from dalsegno.protocol import Receipt, repeated_receipt, store_receipt


def test_a_repeat_gets_the_receipt_again() -> None:
    receipt = Receipt(
        workspace_id="w", event_seq=7, stream_id="note:a:b", version=3, command_id="c"
    )
    stored = store_receipt(receipt)
    assert stored == '[7,"note:a:b",3,"c"]', "rows of earlier releases are read as well"
    assert repeated_receipt("w", stored) == replace(receipt, repeated=True)
    assert receipt.entity_id == "a:b"
