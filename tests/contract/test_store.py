"""Our stores keep what every store guarantees; the `harness` is each of them in turn."""

from dalsegno.actors.testing.contract import StoreContract


class TestStore(StoreContract):
    pass
