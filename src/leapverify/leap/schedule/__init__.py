"""Learning-rate schedules around a leap."""
