"""What people did: programs made of reports in public trackers, and how the doctor does on them.

Each report is a small program with the substance of what the person did, and a label of what is right to say of it.
Run by `python -m benchmarks.reports`.
"""
