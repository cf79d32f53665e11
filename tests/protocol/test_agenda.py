"""What is due comes in time, and nothing else comes."""

from __future__ import annotations

from hypothesis import given, strategies as st

from dalsegno.protocol import Agenda

_ITEMS = st.integers(0, 5)
_TIMES = st.floats(0, 60, allow_nan=False)

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), _ITEMS, _TIMES),
        st.tuples(st.just("discard"), _ITEMS, st.just(0.0)),
        st.tuples(st.just("wait"), st.just(0), st.floats(0, 20, allow_nan=False)),
    ),
    max_size=40,
)


@given(steps=_STEPS, slot_s=st.sampled_from([0.3, 0.5, 1.0, 2.5]), began=_TIMES)
def test_each_comes_once_never_before_its_time_and_at_most_a_slot_after_it(
    steps: list[tuple[str, int, float]], slot_s: float, began: float
) -> None:
    now = began
    agenda: Agenda[int] = Agenda(slot_s, now)
    model: dict[int, float] = {}
    for what, item, number in steps:
        if what == "put":
            agenda.put(item, number)
            model[item] = max(number, now)
        elif what == "discard":
            agenda.discard(item)
            model.pop(item, None)
        else:
            now += number
            taken = agenda.take(now)
            assert len(taken) == len(set(taken))
            for one in taken:
                assert model.pop(one) <= now + 1e-9
            assert all(now < due + slot_s + 1e-9 for due in model.values()), "a slot late at most"
        assert len(agenda) == len(model)
    assert repr(agenda) == f"<Agenda of {len(model)}>"


def test_the_earliest_comes_first_also_after_a_long_pause() -> None:
    agenda: Agenda[str] = Agenda(1.0, 0.0)
    for item, due in (("c", 5_000.0), ("a", 3.0), ("d", 9_000.0), ("b", 4_000.5)):
        agenda.put(item, due)
    assert agenda.take(8_000.0) == ["a", "b", "c"]
    assert agenda.take(8_000.0) == []
    assert agenda.take(9_000.0) == ["d"]


def test_what_is_due_already_comes_with_the_next_slot() -> None:
    agenda: Agenda[str] = Agenda(1.0, 10.0)
    agenda.put("a", 3.0)
    assert agenda.take(10.5) == []
    assert agenda.take(11.0) == ["a"]
