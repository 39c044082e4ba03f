"""What is measured on finished runs, and the toy."""
