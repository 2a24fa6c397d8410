/** Runs models, pipeline and tokenizer of transformers.js in Node, on the artifact's folder. */
import { bytes, forEachVariant, job, printResult } from './job.mjs';
import { runTransformers, table, tensors } from './run_models.mjs';

const hub = await import(job.package);
hub.env.allowRemoteModels = false;

/** The token ids of each text alone. */
async function tokens() {
  const tokenizer = await hub.AutoTokenizer.from_pretrained(job.folder);
  const options = { padding: 'max_length', truncation: true, max_length: job.ids.shape[1] };
  return job.tokenizer_texts.map((text) => table(tokenizer(text, options).input_ids)[0]);
}

const inputs = await tensors(hub.Tensor, job, bytes);
const variants = await forEachVariant((variant) => runTransformers(hub, variant, inputs, job));
printResult({ version: hub.env.version, tokens: await tokens(), variants });
