"""The OpenAI Agents SDK: hooks of a run.

    with Heartbeat(url, key) as heartbeat, heartbeat.working():
        await Runner.run(agent, task, hooks=RollcallHooks(heartbeat))
"""

from agents import RunHooks

from ._adapter import used

__all__ = ["RollcallHooks"]


class RollcallHooks(RunHooks):
    """Each model's answer and each tool's end is progress, and what the model used is reported.

    Before each of them it waits while an operator wants a pause, and raises `Stop` at `stop`. `cost_usd` may be a
    function that says what a `ModelResponse` cost.
    """

    def __init__(self, heartbeat, cost_usd=None):
        self._heartbeat, self._cost_usd = heartbeat, cost_usd

    async def on_llm_start(self, *_arguments, **_named):
        await self._heartbeat.acheck()

    async def on_tool_start(self, *_arguments, **_named):
        await self._heartbeat.acheck()

    async def on_tool_end(self, *_arguments, **_named):
        self._heartbeat.progress()

    async def on_llm_end(self, context, agent, response):
        used(self._heartbeat, self._read, response)

    def _read(self, response):
        cost_usd = self._cost_usd(response) if self._cost_usd else 0
        return {"tokens": response.usage.total_tokens, "cost_usd": cost_usd}
