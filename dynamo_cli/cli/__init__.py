"""The command line.

Child processes import the module that the parent was started with, and so this one: nothing is
imported here until `main` runs.
"""


def main() -> None:
    """The console script ``dynamo-llm``."""
    from dynamo_cli.cli.app import run  # noqa: PLC0415 - see above

    run()
