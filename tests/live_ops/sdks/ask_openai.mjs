// Asks for streams with openai-node; takes and prints what ask.py does.
import OpenAI from "openai";

const [url, ...prompts] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
for (const prompt of prompts) {
  let text = "";
  let raised = null;
  try {
    const messages = [{ role: "user", content: prompt }];
    const stream = await client.chat.completions.create({ model: "m", messages, max_tokens: 9, stream: true });
    for await (const chunk of stream) {
      for (const choice of chunk.choices) text += choice.delta.content ?? "";
    }
  } catch (error) {
    raised = error.constructor.name;
  }
  console.log(JSON.stringify({ prompt, text, raised }));
}
