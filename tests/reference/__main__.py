"""``python -m tests.reference`` writes the reference pages anew."""

from __future__ import annotations

from tests.reference.pages import PAGES, path_of


def main() -> None:
    for name, page in PAGES.items():
        path_of(name).write_text(page())
        print(path_of(name))


if __name__ == "__main__":
    main()
