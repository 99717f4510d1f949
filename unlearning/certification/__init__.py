"""What certificates need: mechanisms, bounds, released noise, and the certificate itself."""
