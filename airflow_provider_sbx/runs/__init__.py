"""One run of a process for a task: who it is, how it starts, what its end means. For worker and triggerer."""
