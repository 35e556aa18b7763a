"""The Claude Agent SDK: hooks, and a reader of messages.

    with Heartbeat(url, key) as heartbeat, heartbeat.working():
        rollcall = RollcallHooks(heartbeat)
        options = ClaudeAgentOptions(hooks=rollcall.hooks)
        async for message in rollcall.messages(query(prompt=task, options=options)):
            ...
"""

from claude_agent_sdk import HookMatcher, ResultMessage

from . import Stop
from ._adapter import used

__all__ = ["RollcallHooks"]

PAUSE_SECONDS = 86400
"""How long a hook may wait: a hook that is given up lets the tool go on."""


class RollcallHooks:
    """For one `query()` or one client: each tool's end and each message is progress, and results say what was used.

    Before each prompt and each tool the hooks wait while an operator wants a pause; at `stop` they end the agent's
    turn, and `messages()` raises `Stop` after its result.
    """

    def __init__(self, heartbeat):
        self._heartbeat = heartbeat
        self._counted = {"tokens": 0, "cost_usd": 0.0}
        before = [HookMatcher(hooks=[self._before], timeout=PAUSE_SECONDS)]
        after = [HookMatcher(hooks=[self._after])]
        self.hooks = {"UserPromptSubmit": before, "PreToolUse": before, "PostToolUse": after}

    async def messages(self, messages):
        """Passes on what the agent says."""
        async for message in messages:
            if isinstance(message, ResultMessage):
                used(self._heartbeat, self._since_the_last, message)
            else:
                self._heartbeat.progress()
            yield message
            if isinstance(message, ResultMessage):
                await self._heartbeat.acheck()

    async def _before(self, _input, _tool_use_id, _context):
        try:
            await self._heartbeat.acheck()
        except Stop as stop:
            # The SDK's own task runs this; the program hears of it after the result.
            return {"continue_": False, "stopReason": str(stop)}
        return {}

    async def _after(self, _input, _tool_use_id, _context):
        self._heartbeat.progress()
        return {}

    def _since_the_last(self, result):
        """A result's figures are sums since its process began; one that is lower than before is another process's."""
        parts = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")
        models = (result.model_usage or {}).values()
        now = {
            "tokens": sum(model.get(part, 0) for model in models for part in parts),
            "cost_usd": result.total_cost_usd or 0,
        }
        before, self._counted = self._counted, now
        return {name: value - before[name] if value >= before[name] else value for name, value in now.items()}
