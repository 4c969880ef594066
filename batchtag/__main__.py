"""`python -m batchtag`: the command line without its script, for clusters that get the package with the job."""

from batchtag.cli import main

main()
