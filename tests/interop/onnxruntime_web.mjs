/** Runs the graphs of each variant in onnxruntime-web (WASM), in headless Chromium. */
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { pageFolders, withBrowser } from './browser.mjs';
import { answer, forEachVariant } from './shared.mjs';

/** Runs in the page. */
async function ask({ variant, job }) {
  const { askGraphs, tensors } = await import('/scripts/asking.mjs');
  const ort = await import('/ort/ort.wasm.min.mjs');
  // Threads need headers that isolate the page from other origins.
  Object.assign(ort.env.wasm, { wasmPaths: '/ort/', numThreads: 1 });
  const inputs = await tensors(ort.Tensor, job, async (path) => (await fetch(path)).arrayBuffer());
  const open = ({ path, data }) => {
    const externalData = data.map((file) => ({ path: file.split('/').at(-1), data: `/${job.folder}/${file}` }));
    return ort.InferenceSession.create(`/${job.folder}/${path}`, { externalData });
  };
  return { version: ort.env.versions.web, ...(await askGraphs(open, variant, inputs)) };
}

const ort = dirname(createRequire(import.meta.url).resolve('onnxruntime-web'));
const variants = await withBrowser({ ...pageFolders, ort }, (inPage) =>
  forEachVariant((variant) => inPage(ask, variant)),
);
answer({ variants });
