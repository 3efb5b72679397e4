"""What the tests stand on: real channels, a server that can misbehave, real prefixes. See README.md here."""
