"""Acme cards for PyTorch: a vendor that Vision Runner has never heard of."""
