"""Load for a server, and what came of it; replay reports through the same figures."""
