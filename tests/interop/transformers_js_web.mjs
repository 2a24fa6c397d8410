/** Runs models and pipeline of transformers.js in headless Chromium (WASM), on the artifact's folder. */
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { pageFolders, withBrowser } from './browser.mjs';
import { forEachVariant, job, printResult } from './job.mjs';

/** Runs in the page. */
async function run({ variant, job }) {
  const { runTransformers, tensors } = await import('/scripts/run_models.mjs');
  const hub = await import('/hub/transformers.js');
  Object.assign(hub.env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: '/', useBrowserCache: false });
  // Threads would need headers that isolate the page from other origins.
  Object.assign(hub.env.backends.onnx.wasm, { wasmPaths: '/ort/', numThreads: 1 });
  const inputs = await tensors(hub.Tensor, job, async (path) => (await fetch(path)).arrayBuffer());
  return { version: hub.env.version, ...(await runTransformers(hub, variant, inputs, job)) };
}

// The package depends on its own version of ONNX Runtime, and only that version's WASM works with it.
const hub = createRequire(import.meta.url).resolve(job.package);
const ort = dirname(createRequire(hub).resolve('onnxruntime-web'));
const variants = await withBrowser({ ...pageFolders, hub: dirname(hub), ort }, (inPage) =>
  forEachVariant((variant) => inPage(run, variant)),
);
printResult({ variants });
