"""What families share that draw a picture scale by scale (`infinity`, `var`)."""
