"""TaskFlow: functions as tasks whose work is done in a sandbox."""
