"""Random switches between address spaces that change: what guests read against a model of the tables."""

from __future__ import annotations

import pytest

from tests.system.spaces_guest import SpacesGuest
from tests.system.test_system_behaviour import STATUS, build, under_vemu


@pytest.mark.parametrize("seed", range(40))
def test_accesses_find_what_the_tables_say(seed: int) -> None:
    guest = SpacesGuest(seed)
    image = build("spaces.s", {"spaces.s": guest.text})
    assert under_vemu(image, "translate") == (STATUS, guest.prints)
    if seed % 10 == 0:
        assert under_vemu(image, "interpret") == (STATUS, guest.prints)
