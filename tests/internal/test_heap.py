from __future__ import annotations

import gc

from agentlightning._internal.heap import settled_heap


def test_old_objects_are_left_out_and_everything_is_as_before_afterwards() -> None:
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    with settled_heap():
        assert gc.get_freeze_count() > frozen + 1000
        assert gc.get_threshold() > thresholds
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == 0


def test_new_cycles_are_still_collected() -> None:
    class Node:
        pass

    with settled_heap():
        node = Node()
        node.itself = node  # type: ignore[attr-defined]
        identity = id(node)
        del node
        gc.collect()
        assert all(id(found) != identity or not isinstance(found, Node) for found in gc.get_objects())
