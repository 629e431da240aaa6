"""The command line: the only place that prints, reads files and the environment. One module a command."""
