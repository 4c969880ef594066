"""`python -m batchtag`: the command where its script is not on the path, as on a cluster that was sent the package."""

from batchtag.cli import main

main()
