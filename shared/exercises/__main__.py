"""`python -m shared.exercises`: see build.py."""

import sys

from shared.exercises.build import main

sys.exit(main())
