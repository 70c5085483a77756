"""The teacher's side: what a class gets, what comes back, and what it is worth.

    python -m shared.classroom release 3            what the students get of chapter 3
    python -m shared.classroom grade 3 FOLDER       grade FOLDER/submitted/STUDENT/…

The guide is appendix/teaching/README.md. Readers of the course need none of this.

`release` makes the students' copy, `submissions` finds and mends what they hand in, `jail` and
`kernel` run it where it can do no harm, `inside` is the part that runs in there, `grade` puts
these together, `report` writes marks, feedback and the picture of the class, and `similarity`
finds answers that are nearly the same.
"""
