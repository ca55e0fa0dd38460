"""`python -m local_fusion` is the `local-fusion` command."""

from local_fusion.cli.main import main

if __name__ == "__main__":
    main()
