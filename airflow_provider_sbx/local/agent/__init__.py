"""The process that stands inside a sandbox and starts its commands.

One agent a sandbox, run by the host's Python with nothing but the standard library. It is the
sandbox's first process, so that its end ends them all, and it hears of the server's end (even
of a crash) by its control socket closing. Commands are forked by it rather than by the server:
they start inside the sandbox without a helper program each, and from a small process.
"""
