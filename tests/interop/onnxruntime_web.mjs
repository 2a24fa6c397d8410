/** Runs the graphs of each variant in onnxruntime-web (WASM), in headless Chromium. */
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { pageFolders, withBrowser } from './browser.mjs';
import { forEachVariant, printResult } from './job.mjs';

/** Runs in the page. */
async function run({ variant, job }) {
  const { runGraphs, tensors } = await import('/scripts/run_models.mjs');
  const ort = await import('/ort/ort.wasm.min.mjs');
  // Threads would need headers that isolate the page from other origins.
  Object.assign(ort.env.wasm, { wasmPaths: '/ort/', numThreads: 1 });
  const inputs = await tensors(ort.Tensor, job, async (path) => (await fetch(path)).arrayBuffer());
  const open = ({ path, data }) => {
    const externalData = data.map((file) => ({ path: file.split('/').at(-1), data: `/${job.folder}/${file}` }));
    return ort.InferenceSession.create(`/${job.folder}/${path}`, { externalData });
  };
  return { version: ort.env.versions.web, ...(await runGraphs(open, variant, inputs)) };
}

const ort = dirname(createRequire(import.meta.url).resolve('onnxruntime-web'));
const variants = await withBrowser({ ...pageFolders, ort }, (inPage) =>
  forEachVariant((variant) => inPage(run, variant)),
);
printResult({ variants });
