/** Asks transformers.js in Node for everything that it makes of the artifact's folder. */
import { askTransformers, table, tensors } from './asking.mjs';
import { answer, bytes, forEachVariant, job } from './shared.mjs';

const hub = await import(job.package);
hub.env.allowRemoteModels = false;

/** The token ids of each text alone. */
async function tokens() {
  const tokenizer = await hub.AutoTokenizer.from_pretrained(job.folder);
  const options = { padding: 'max_length', truncation: true, max_length: job.ids.shape[1] };
  return job.tokenizer_texts.map((text) => table(tokenizer(text, options).input_ids)[0]);
}

const inputs = await tensors(hub.Tensor, job, bytes);
const variants = await forEachVariant((variant) => askTransformers(hub, variant, inputs, job));
answer({ version: hub.env.version, tokens: await tokens(), variants });
