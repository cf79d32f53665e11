"""``dalsegno`` and ``python -m dalsegno.runtime``."""

from ._interrupts import exit_on_interrupt

exit_on_interrupt()  # while the rest is imported

from ._cli import main  # noqa: E402

if __name__ == "__main__":
    main()
