"""LangChain: a callback handler.

    with Heartbeat(url, key) as heartbeat, heartbeat.working():
        agent.invoke(task, config={"callbacks": [RollcallHandler(heartbeat)]})
"""

from langchain_core.callbacks import BaseCallbackHandler

from ._adapter import used

__all__ = ["RollcallHandler"]


class RollcallHandler(BaseCallbackHandler):
    """Each model's answer and each tool's end is progress, and what the model used is reported.

    Before each of them it waits while an operator wants a pause, and raises `Stop` at `stop`. LangChain calls it in
    threads of its own where the agent is asynchronous, so that it never blocks the loop. `cost_usd` may be a function
    that says what an `LLMResult` cost.
    """

    def __init__(self, heartbeat, cost_usd=None):
        self._heartbeat, self._cost_usd = heartbeat, cost_usd

    def on_llm_start(self, *_arguments, **_named):
        self._heartbeat.check()

    def on_chat_model_start(self, *_arguments, **_named):
        self._heartbeat.check()

    def on_tool_start(self, *_arguments, **_named):
        self._heartbeat.check()

    def on_tool_end(self, *_arguments, **_named):
        self._heartbeat.progress()

    def on_llm_end(self, response, **_named):
        used(self._heartbeat, self._read, response)

    def _read(self, response):
        messages = [getattr(generation, "message", None) for batch in response.generations for generation in batch[:1]]
        tokens = sum((getattr(message, "usage_metadata", None) or {}).get("total_tokens", 0) for message in messages)
        if not tokens:
            tokens = ((response.llm_output or {}).get("token_usage") or {}).get("total_tokens", 0)
        return {"tokens": tokens, "cost_usd": self._cost_usd(response) if self._cost_usd else 0}
