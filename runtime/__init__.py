"""Where it runs: stores, sockets, accounts, the command line."""
