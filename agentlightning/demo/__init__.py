"""The demo: a small world, a policy of half a million parameters, and a warm start that leaves room to learn."""
