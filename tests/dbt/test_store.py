"""The store of translations: found by bytes, handed out in the order of use, given up when idle."""

from __future__ import annotations

from emu.dbt.store import Translation, TranslationStore, key_of
from isa.x86.code import Code
from isa.x86.rewrite import BlockMode

KEY = (64, 0)


def translation(pc: int, raw: bytes = b"\x90\xc3", host: bytes = b"\x90") -> Translation:
    code = Code(pc, raw, 0, 0, -1, 1, 0, 1, False, bytes((len(raw),)), b"\0\0", (), (), ())
    return Translation.of(KEY, host, (), (code,))


def reloaded(store: TranslationStore) -> TranslationStore:
    """As if what `store` saves had been loaded by the next run."""
    return TranslationStore([Translation(kept.key, kept.record()) for kept in store.to_save()])


def test_only_the_same_bytes_are_found() -> None:
    store = TranslationStore()
    made = translation(0x1000)
    store.add(made)
    assert store.find(KEY, 0x1000, b"\x90\xc3\xcc") is made
    assert store.find(KEY, 0x1000, b"\x90\xc2\xcc") is None
    assert store.find(KEY, 0x1000, b"\x90") is None, "the page ends before the code does"
    assert store.find(KEY, 0x1001, b"\x90\xc3") is None
    assert store.find((32, 0), 0x1000, b"\x90\xc3") is None


def test_versions_of_the_same_code_live_side_by_side() -> None:
    store = TranslationStore()
    before, after = translation(0x1000), translation(0x1000, b"\xcc\xc3")
    store.add(before)
    store.add(after)
    assert store.find(KEY, 0x1000, b"\xcc\xc3") is after
    assert store.find(KEY, 0x1000, b"\x90\xc3") is before


def test_what_is_saved_keeps_the_order_of_use_and_its_content() -> None:
    store = TranslationStore()
    made = [translation(pc, host=bytes((pc,))) for pc in range(5)]
    for one in made:
        store.add(one)
    for number in (3, 0, 4):
        store.use(made[number])
    made[3].entered.add(0)
    later = reloaded(store)
    assert [one.pc for one in later.ordered] == [3, 0, 4]
    first = later.ordered[0]
    assert (first.raw, first.host, first.entered, first.codes) == (b"\x90\xc3", b"\3", {0}, made[3].codes)


def test_those_behind_are_the_next_ones_not_placed_yet() -> None:
    store = TranslationStore([translation(pc) for pc in range(6)])
    store.use(store.ordered[2])
    assert [one.pc for one in store.behind(store.ordered[0], 4)] == [1, 3, 4]
    store.flushed()
    assert [one.pc for one in store.behind(store.ordered[0], 4)] == [1, 2, 3, 4]
    assert list(store.behind(translation(9), 4)) == [], "a new one has nothing behind it"


def test_what_several_runs_did_not_need_is_given_up() -> None:
    store = TranslationStore([translation(1), translation(2)])
    runs = 0
    while len(store.ordered) == 2:
        store.use(store.ordered[0])
        store = reloaded(store)
        runs += 1
        assert runs < 10
    assert [one.pc for one in store.ordered] == [1]
    assert runs > 1, "one run without it must not be enough"


def test_a_key_tells_every_mode_apart() -> None:
    one = BlockMode(64, 0, 0, False, False, 0, True, 0, False)
    others = (
        BlockMode(32, 0, 0, False, False, 0, True, 0, False), BlockMode(64, 3, 0, False, False, 0, True, 0, False),
        BlockMode(64, 0, 0, True, False, 0, True, 0, False), BlockMode(64, 0, 0, False, False, 0, True, 0, True),
        BlockMode(64, 0, 0, False, False, 0, True, 0, False, no_sse=True),
        BlockMode(64, 0, 0, False, False, 0, True, 0, False, aligning=True),
    )  # fmt: skip
    keys = {key_of(mode, 0x1000, 0x2000) for mode in (one, *others)}
    assert len(keys) == 1 + len(others)
    assert key_of(one, 0x1000, 0x3000) not in keys, "another jump table"
    assert key_of(one, 0x5000, 0x2000) not in keys, "other places of the monitor's data"


def test_what_was_not_added_is_not_saved() -> None:
    store = TranslationStore()
    made = translation(1)
    store.use(made)
    assert store.to_save() == []
