"""Meta-training: the learnt predictors, from the histories of studies that kept their weights."""
