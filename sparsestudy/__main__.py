"""``python -m sparsestudy`` is the command line."""

from sparsestudy.cli import entry

if __name__ == "__main__":
    entry()
