"""Pure data and the arithmetic on it: no I/O, no clock, no environment."""
