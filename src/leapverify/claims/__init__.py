"""The paper's claims: what each says, its rule, the studies that test it, and the page of verdicts."""
