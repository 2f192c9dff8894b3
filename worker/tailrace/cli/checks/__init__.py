"""What `tailrace doctor` looks at, one subject a file. Each check is a function that yields findings.

A kind of finding is declared where it is found; docs/doctor.md has a table of all, which a test keeps equal to them.
"""
