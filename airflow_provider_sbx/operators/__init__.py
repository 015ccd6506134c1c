"""Tasks that run processes in sandboxes."""
