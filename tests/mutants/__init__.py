"""Wrong and right answers to the exercises, and what the checks say to them: `make mutants`."""
