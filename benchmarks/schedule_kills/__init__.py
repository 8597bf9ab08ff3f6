"""Kill the workers of the example application in turns, and see whether an instant of its schedules is missing.

``program.py`` is one worker, ``judge.py`` compares what started with what a preview told before, ``run.py`` starts and
kills, ``__main__.py`` is the command line. Jobs write into a file of their own and into the application's catalogue, so
the verdict asks nothing of the library but the preview.
"""
