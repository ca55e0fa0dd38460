"""A genetic search: who breeds and who stays, how children are written, how candidates stand."""
