"""What the course must reach, measured by `make bench`; no timing is ever asserted in a test."""
