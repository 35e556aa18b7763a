"""The adapters with the frameworks themselves, and models that are none."""

import asyncio
import json
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import agents  # noqa: E402
import claude_agent_sdk  # noqa: E402
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel  # noqa: E402
from langchain_core.messages import AIMessage  # noqa: E402
from openai.types.responses import ResponseOutputMessage, ResponseOutputText  # noqa: E402
from test_heartbeat import KEY, Recorded, Server, accepted  # noqa: E402

from rollcall_heartbeat import Stop, claude_agent, langchain, openai_agents  # noqa: E402

STOP = {"version": 9, "action": "stop"}
agents.set_tracing_disabled(True)


class OpenAiModel(agents.Model):
    async def get_response(self, *_arguments, **_named):
        text = ResponseOutputText(annotations=[], text="done", type="output_text")
        message = ResponseOutputMessage(id="1", content=[text], role="assistant", status="completed", type="message")
        usage = agents.Usage(requests=1, input_tokens=20, output_tokens=10, total_tokens=30)
        return agents.ModelResponse(output=[message], usage=usage, response_id=None)

    def stream_response(self, *_arguments, **_named):
        raise NotImplementedError


class ClaudeTransport(claude_agent_sdk.Transport):
    """The other side of the SDK's protocol: asks the hook before a tool, then sends two results."""

    def __init__(self):
        self.decision = None
        self._messages = asyncio.Queue()

    async def connect(self):
        pass

    async def write(self, data):
        said = json.loads(data)
        if said["type"] == "control_request":
            hooks = said["request"]["hooks"]
            answer = {"subtype": "success", "request_id": said["request_id"], "response": {}}
            self._messages.put_nowait({"type": "control_response", "response": answer})
            [callback] = hooks["PreToolUse"][0]["hookCallbackIds"]
            asked = {"subtype": "hook_callback", "callback_id": callback, "input": {}, "tool_use_id": "1"}
            self._messages.put_nowait({"type": "control_request", "request_id": "1", "request": asked})
        elif said["type"] == "control_response":
            self.decision = said["response"]["response"]
            for cost in (0.25, 0.75):
                self._messages.put_nowait(self.result(cost))
            self._messages.put_nowait(None)

    def result(self, cost):
        model = {"inputTokens": int(cost * 100), "outputTokens": 0}
        return {
            **{"type": "result", "subtype": "success", "session_id": "1", "is_error": False, "num_turns": 1},
            **{"duration_ms": 1, "duration_api_ms": 1, "total_cost_usd": cost, "modelUsage": {"m": model}},
        }

    async def read_messages(self):
        while (message := await self._messages.get()) is not None:
            yield message

    async def close(self):
        pass

    def is_ready(self):
        return True

    async def end_input(self):
        pass


class Adapters(unittest.TestCase):
    def heartbeat(self, *script):
        server = Server(*script, accepted(1))
        self.addCleanup(server.close)
        heartbeat = Recorded(server.url, 1)
        for _ in script:
            heartbeat._send_one()
        return server, heartbeat

    def used(self, server, heartbeat):
        heartbeat._send_one()
        return server.reported("usage")[-1]

    def langchain(self, heartbeat):
        usage = {"input_tokens": 20, "output_tokens": 10, "total_tokens": 30}
        model = FakeMessagesListChatModel(responses=[AIMessage("done", usage_metadata=usage)])
        handler = langchain.RollcallHandler(heartbeat, cost_usd=lambda _response: 0.5)
        return model, {"callbacks": [handler]}

    def claude(self, heartbeat):
        transport = ClaudeTransport()
        hooks = claude_agent.RollcallHooks(heartbeat)

        async def work():
            options = claude_agent_sdk.ClaudeAgentOptions(hooks=hooks.hooks)
            async for _ in hooks.messages(claude_agent_sdk.query(prompt="work", options=options, transport=transport)):
                pass

        return transport, work

    def test_langchain_reports_what_a_model_used(self):
        server, heartbeat = self.heartbeat()
        model, config = self.langchain(heartbeat)
        model.invoke("work", config=config)
        self.assertEqual(self.used(server, heartbeat), {"tokens": 30, "cost_usd": 0.5})

    def test_langchain_is_stopped(self):
        _, heartbeat = self.heartbeat(accepted(1, **STOP))
        model, config = self.langchain(heartbeat)
        with self.assertRaises(Stop):
            model.invoke("work", config=config)
        with self.assertRaises(Stop):
            asyncio.run(model.ainvoke("work", config=config))

    def test_openais_agents_report_what_a_model_used(self):
        server, heartbeat = self.heartbeat()
        hooks = openai_agents.RollcallHooks(heartbeat, cost_usd=lambda _response: 0.5)
        asyncio.run(agents.Runner.run(agents.Agent("a", model=OpenAiModel()), "work", hooks=hooks))
        self.assertEqual(self.used(server, heartbeat), {"tokens": 30, "cost_usd": 0.5})

    def test_openais_agents_are_stopped(self):
        _, heartbeat = self.heartbeat(accepted(1, **STOP))
        hooks = openai_agents.RollcallHooks(heartbeat)
        with self.assertRaises(Stop):
            asyncio.run(agents.Runner.run(agents.Agent("a", model=OpenAiModel()), "work", hooks=hooks))

    def test_claudes_results_are_sums_and_the_difference_is_reported(self):
        server, heartbeat = self.heartbeat()

        async def work():
            transport, work = self.claude(heartbeat)
            await work()
            return transport.decision

        self.assertEqual(asyncio.run(work()), {})
        self.assertEqual(self.used(server, heartbeat), {"tokens": 75, "cost_usd": 0.75})

    def test_claude_is_stopped_before_a_tool_and_the_program_after_it(self):
        _, heartbeat = self.heartbeat(accepted(1, **STOP))

        async def work():
            transport, work = self.claude(heartbeat)
            with self.assertRaises(Stop):
                await work()
            return transport.decision

        self.assertFalse(asyncio.run(work())["continue"])

    def test_an_answer_that_cannot_be_read_fails_nothing(self):
        _, heartbeat = self.heartbeat()
        model, config = self.langchain(heartbeat)
        config["callbacks"][0]._cost_usd = lambda _response: 1 / 0
        with self.assertLogs("rollcall", "ERROR"):
            self.assertEqual(model.invoke("work", config=config).content, "done")

    def test_no_adapter_is_imported_with_the_client(self):
        frameworks = "{'agents', 'claude_agent_sdk', 'langchain_core'}"
        code = f"import sys, rollcall_heartbeat; sys.exit(not {frameworks}.isdisjoint(sys.modules))"
        source = str(pathlib.Path(__file__).resolve().parents[2] / "src")
        subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": source})


if __name__ == "__main__":
    unittest.main()
