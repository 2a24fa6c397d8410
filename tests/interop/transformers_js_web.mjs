/** Asks transformers.js in headless Chromium (WASM) for everything that it makes of the artifact's folder. */
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { pageFolders, withBrowser } from './browser.mjs';
import { answer, forEachVariant, job } from './shared.mjs';

/** Runs in the page. */
async function ask({ variant, job }) {
  const { askTransformers, tensors } = await import('/scripts/asking.mjs');
  const hub = await import('/hub/transformers.js');
  Object.assign(hub.env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: '/', useBrowserCache: false });
  // Threads need headers that isolate the page from other origins.
  Object.assign(hub.env.backends.onnx.wasm, { wasmPaths: '/ort/', numThreads: 1 });
  const inputs = await tensors(hub.Tensor, job, async (path) => (await fetch(path)).arrayBuffer());
  return { version: hub.env.version, ...(await askTransformers(hub, variant, inputs, job)) };
}

// The package brings its own ONNX Runtime, whose WASM must be the one that is served.
const hub = createRequire(import.meta.url).resolve(job.package);
const ort = dirname(createRequire(hub).resolve('onnxruntime-web'));
const variants = await withBrowser({ ...pageFolders, hub: dirname(hub), ort }, (inPage) =>
  forEachVariant((variant) => inPage(ask, variant)),
);
answer({ variants });
