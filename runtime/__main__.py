"""``dalsegno`` and ``python -m dalsegno.runtime``."""

from ._cli import main

if __name__ == "__main__":
    main()
