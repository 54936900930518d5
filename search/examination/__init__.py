"""First look at a stranger's file, in a process with limits on time and memory. Imports no torch.

`process.Examination` starts the process and gives its verdict, `child` is what runs in it, and
`python -m search.examination network FILE` does both for the command line.
"""
