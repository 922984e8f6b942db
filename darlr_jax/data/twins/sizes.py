"""How much a twin holds."""

from __future__ import annotations

from typing import NamedTuple


class Sizes(NamedTuple):
    """How much the files of a twin hold."""

    users: int
    items: int
    environment_users: int  # those that can be evaluated
    environment_items: int
    log_rows: int
    test_rows: int
