"""Leaping live: the allocator, the transaction, and the leap over the decay (SPEC 9)."""
