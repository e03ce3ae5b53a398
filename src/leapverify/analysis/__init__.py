"""What the records say: acceptance, comparison of seeds, recognizer skill, sensitivity and cost, from records alone."""
