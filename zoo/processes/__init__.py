"""Worker processes, each with one framework, and facts about the machine."""
