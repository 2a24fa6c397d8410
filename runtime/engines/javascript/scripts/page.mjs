/** Runs a graph in onnxruntime-web (WASM); web.mjs serves this script, and the other files one level above. */
import { describe, run } from './graph.mjs';

const served = (path) => new URL(`../${path}`, import.meta.url).href;
const ort = await import(served('ort/ort.wasm.min.mjs'));
let session;

/** Loads the graph with its data files. */
export async function open({ provider, threads, data }) {
  Object.assign(ort.env.wasm, { wasmPaths: served('ort/'), numThreads: threads });
  session = await ort.InferenceSession.create(served('graph'), {
    executionProviders: [provider],
    externalData: data.map((path, number) => ({ path, data: served(`data/${number}`) })),
    logSeverityLevel: 3,
  });
  return { version: ort.env.versions.web, ...describe(session) };
}

/** Fetches a frame with inputs, runs the graph, and posts a frame with outputs. */
export async function answer() {
  const frame = await (await fetch(served('frame'))).arrayBuffer();
  const body = await run(ort, session, new Uint8Array(frame));
  await fetch(served('frame'), { method: 'POST', body });
}
