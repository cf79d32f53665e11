"""Processes of the machine, of which nothing is left whatever becomes of who started them."""

from ._runner import Processes as Processes
