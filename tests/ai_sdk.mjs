// A program of the Vercel AI SDK: two turns with a tool, streamed and not. Its words are the
// folder of its packages, the gateway's URL, the API to speak,
// and "stores" where the provider may keep answers. The key is in TOLLWAY_KEY.
import { createRequire } from "node:module";
import { writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, url, api, stores] = process.argv.slice(2);
const within = createRequire(`${folder}/`);
const load = async (name) => import(pathToFileURL(within.resolve(name)));
const { generateText, jsonSchema, stepCountIs, streamText, tool } = await load("ai");
const apiKey = process.env.TOLLWAY_KEY;

const models = {
  chat: async () =>
    (await load("@ai-sdk/openai")).createOpenAI({ apiKey, baseURL: `${url}/v1` }).chat("smart"),
  responses: async () =>
    (await load("@ai-sdk/openai")).createOpenAI({ apiKey, baseURL: `${url}/v1` })("smart"),
  messages: async () =>
    (await load("@ai-sdk/anthropic")).createAnthropic({ apiKey, baseURL: `${url}/v1` })("smart"),
  gemini: async () =>
    (await load("@ai-sdk/google")).createGoogleGenerativeAI({ apiKey, baseURL: `${url}/v1beta` })(
      "smart",
    ),
};
const asked = {
  model: await models[api](),
  prompt: "Create hello.txt",
  maxOutputTokens: 500,
  maxRetries: 0,
  providerOptions: { openai: { store: stores === "stores" } },
  stopWhen: stepCountIs(3),
  tools: {
    note: tool({
      description: "Write a text to hello.txt",
      inputSchema: jsonSchema({
        type: "object",
        properties: { text: { type: "string" } },
        required: ["text"],
      }),
      execute: async ({ text }) => {
        writeFileSync("hello.txt", text);
        return "done";
      },
    }),
  },
};
const whole = await generateText(asked);
const stream = streamText({ ...asked, onError: ({ error }) => { throw error; } });
let told = "";
for await (const piece of stream.textStream) told += piece;
const show = async (one, text) => ({
  text,
  finish: await one.finishReason,
  usage: await one.totalUsage.then?.((used) => used) ?? one.totalUsage,
  steps: (await one.steps).length,
});
console.log(JSON.stringify([await show(whole, whole.text), await show(stream, told)]));
