"""Receipts: the answers to accepted commands, and what is stored for repeats of a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


class Receipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer to a command that was accepted, even if it changed nothing."""

    workspace_id: str
    event_seq: int
    """Of the command's last event; if it led to none, the head that it saw."""
    stream_id: str
    """The command's entity."""
    version: int
    """The entity's version after the command."""
    command_id: str
    repeated: bool = False
    """True if this is the original answer, found by its idempotency key."""

    @property
    def entity_id(self) -> str:
        """The entity's id, without its domain."""
        return self.stream_id.partition(":")[2]


class _StoredReceipt(msgspec.Struct, frozen=True, array_like=True, gc=False):
    event_seq: int
    stream_id: str
    version: int
    command_id: str


_decode = msgspec.json.Decoder(_StoredReceipt).decode
_decode_several = msgspec.json.Decoder(tuple[_StoredReceipt, ...]).decode


def store_receipt(receipt: Receipt) -> str:
    """Return what a command result keeps of a receipt: JSON text."""
    return msgspec.json.encode(_kept(receipt)).decode()


def store_receipts(receipts: Sequence[Receipt]) -> str:
    """Return what a command result keeps of the receipts of a group: JSON text."""
    return msgspec.json.encode([_kept(receipt) for receipt in receipts]).decode()


def repeated_receipt(workspace_id: str, stored: str) -> Receipt:
    """Return the receipt for a repeat of a key, from what `store_receipt` returned."""
    return _repeated(workspace_id, _decode(stored))


def repeated_receipts(workspace_id: str, stored: str) -> tuple[Receipt, ...]:
    """Return the receipts for a repeat of a group's key, from what `store_receipts` returned."""
    return tuple(_repeated(workspace_id, kept) for kept in _decode_several(stored))


def _kept(receipt: Receipt) -> _StoredReceipt:
    return _StoredReceipt(receipt.event_seq, receipt.stream_id, receipt.version, receipt.command_id)


def _repeated(workspace_id: str, kept: _StoredReceipt) -> Receipt:
    return Receipt(
        workspace_id=workspace_id,
        event_seq=kept.event_seq,
        stream_id=kept.stream_id,
        version=kept.version,
        command_id=kept.command_id,
        repeated=True,
    )
