"""What a study would run and what that would cost, before it runs."""
