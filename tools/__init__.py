"""Programs for the people who build this project."""
