"""Reference runs: text, models, schedule, loss, training step, and state that resumes exactly."""
