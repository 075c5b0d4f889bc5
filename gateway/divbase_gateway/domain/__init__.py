"""The rules of DivBase, standard library only: no database, no network, no clock, no framework."""
