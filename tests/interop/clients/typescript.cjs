// The TypeScript SDK's client: `node typescript.cjs NODE_MODULES TARGETS CALLS`; the report is as that of common.py.
const { createRequire } = require("node:module");
const load = createRequire(`${process.argv[2]}/any.js`);
const { Client } = load("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = load("@modelcontextprotocol/sdk/client/stdio.js");
const { SSEClientTransport } = load("@modelcontextprotocol/sdk/client/sse.js");
const { StreamableHTTPClientTransport } = load("@modelcontextprotocol/sdk/client/streamableHttp.js");

function transport(target) {
  if (target.transport === "stdio") {
    return new StdioClientTransport({ command: target.command, args: target.args, env: target.env });
  }
  const kind = target.transport === "sse" ? SSEClientTransport : StreamableHTTPClientTransport;
  return new kind(new URL(target.url));
}

async function converse(target, calls) {
  const client = new Client({ name: "interop", version: "1" });
  await client.connect(transport(target), { timeout: 100_000 });
  const tools = (await client.listTools()).tools.map((tool) => tool.name).sort(); // also caches the output schemas
  const answers = {};
  for (const [name, given] of Object.entries(calls)) {
    const said = await client.callTool({ name: "run_python_code", arguments: given }, undefined, { timeout: 100_000 });
    answers[name] = {
      text: said.content.map((block) => block.text ?? "").join(""),
      images: said.content.filter((block) => block.type === "image").length,
      error: said.isError === true,
    };
  }
  await client.close();
  return { tools, answers };
}

async function main() {
  const reports = {};
  for (const [name, target] of Object.entries(JSON.parse(process.argv[3]))) {
    reports[name] = await converse(target, JSON.parse(process.argv[4])).catch((error) => ({ failed: error.stack }));
  }
  console.log(JSON.stringify(reports));
  process.exit(0);
}

main();
