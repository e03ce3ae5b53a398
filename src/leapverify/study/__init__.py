"""The paper's protocol: record, sweep, cascade, compare seeds (SPEC 6-8)."""
