"""What a system may refuse for a while."""

import errno

import pytest

from dalsegno.runtime.resources import EXHAUSTED, SpareDescriptor, starting_thread


def test_a_thread_that_cannot_start_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="can't start new thread") as raised, starting_thread():
        raise RuntimeError("can't start new thread")  # CPython's, for pthread_create's EAGAIN
    assert raised.value.errno == errno.EAGAIN
    assert raised.value.errno in EXHAUSTED


def test_any_other_error_of_a_thread_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="dictionary changed size"), starting_thread():
        raise RuntimeError("dictionary changed size during iteration")


def test_a_spare_descriptor_is_freed_once() -> None:
    spare = SpareDescriptor()
    assert spare.free()
    assert not spare.free()
    spare.keep()
    spare.keep()
    assert spare.free()
    assert not spare.free()
