"""An agent whose scripted model makes one call a run: what the model would see of the answers."""

from common import CALLS, TOOL, answer, report
from pydantic_ai import Agent, BinaryContent
from pydantic_ai.messages import ModelRequest, ModelResponse, RetryPromptPart, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import FunctionModel


async def talk(toolset) -> dict:
    tools: list[str] = []
    answers = {}
    for name, arguments in CALLS.items():

        def model(messages, info, arguments=arguments):
            tools[:] = [tool.name for tool in info.function_tools]
            if any(isinstance(message, ModelResponse) for message in messages):
                return ModelResponse(parts=[TextPart("done")])
            return ModelResponse(parts=[ToolCallPart(TOOL, arguments)])

        agent = Agent(FunctionModel(model), toolsets=[toolset])
        async with agent:
            answers[name] = seen((await agent.run("go")).all_messages())
    return report(tools, answers)


def seen(messages) -> dict:
    text, images, error = "", 0, False
    for message in messages:
        for part in message.parts if isinstance(message, ModelRequest) else ():
            if isinstance(part, ToolReturnPart | RetryPromptPart):
                error = isinstance(part, RetryPromptPart) or getattr(part, "outcome", "success") != "success"
                blocks = part.content if isinstance(part.content, list) else [part.content]
                images += sum(isinstance(block, BinaryContent) for block in blocks)
                text += "".join(str(block) for block in blocks if not isinstance(block, BinaryContent))
            elif not isinstance(part.content, str):
                images += sum(isinstance(block, BinaryContent) for block in part.content)
    return answer(text, images=images, error=error)
