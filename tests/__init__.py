"""Unit tests of the course; the notebooks are tests too (`make test` runs both)."""
