"""The command ``dynamo-llm``: one module per command, their options, and plain output.

Words of the command line, settings and variables come in; a running tree, a report or one line of
error goes out. Open `app.py` first, which serves, then `commands.py`, which lists the other
commands.

Spawned children import the main module of their parent, and so this package: nothing is imported
here until `main` runs.
"""


def main() -> None:
    """Run the console script ``dynamo-llm``."""
    from dynamo_cli.cli.app import run  # noqa: PLC0415 - see above

    run()
