"""Makes the reference pages of docs/ from the code, so that they cannot be out of date."""
