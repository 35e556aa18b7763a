"""What the adapters of the frameworks have in common."""

from . import log


def used(heartbeat, read, response):
    """Reports that a model answered, and what `read` makes of the answer: `{"tokens", "cost_usd"}`.

    An answer that cannot be read is a line of the log: it must not fail the agent.
    """
    heartbeat.progress()
    try:
        heartbeat.usage(**read(response))
    except Exception:
        log.exception("what a model used could not be read, and is not counted")
