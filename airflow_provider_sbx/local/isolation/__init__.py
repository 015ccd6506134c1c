"""How a sandbox is kept apart from the host: one interface, three ways, chosen by what works."""
