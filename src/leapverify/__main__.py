"""`python -m leapverify`, for launchers that start modules, such as torchrun."""

from leapverify.cli.main import main

if __name__ == "__main__":
    main()
