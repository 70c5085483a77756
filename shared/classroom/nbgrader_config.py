"""nbgrader's settings for this course; `python -m shared.classroom nbgrader` puts it in place.

With them, nbgrader's own release has the same blanks as the course's, without the teacher's
reasoning, and its `autograde` runs each submission in a jail. What is graded is named on
the command line: `nbgrader autograde ch03`.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

from nbconvert.preprocessors import TagRemovePreprocessor
from nbgrader.converters import GenerateAssignment

from shared.exercises.build import STUB

c = get_config()  # noqa: F821  (nbgrader defines it)
here = Path(__file__).resolve().parent
c.CourseDirectory.root = str(here)
c.ClearSolutions.code_stub = {"python": STUB}
c.GenerateAssignment.preprocessors = [
    TagRemovePreprocessor,
    *GenerateAssignment.preprocessors.default_args[0],
]
c.TagRemovePreprocessor.enabled = True
c.TagRemovePreprocessor.remove_cell_tags = {"solution"}

# nbgrader calls a program of its own packages by name.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
part = next((word for word in sys.argv[1:] if re.fullmatch(r"ch\d\d|app_[a-z]", word)), None)
if "autograde" in " ".join(sys.argv) and part:
    os.environ["JUPYTER_PATH"] = f"{here}{os.pathsep}{os.environ.get('JUPYTER_PATH', '')}"
    c.Execute.kernel_name = f"jailed-{part}"
    c.Execute.timeout = 60
    c.KernelManager.transport = "ipc"
    c.KernelManager.ip = os.path.join(tempfile.mkdtemp(prefix="jail-"), "k")
