"""Pure array functions compiled with Numba; the hot loops of everything above them."""
